// A program that calls an API with java.net.http, and knows nothing of OAuth: java JavaClient.java
//
// The protocol of standard input and output is that of python_client.py. The proxy is the variable HTTP_PROXY, the CA the
// file in SSL_CERT_FILE: Java itself reads neither.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class JavaClient {
    static SSLContext trusting(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream stream = new FileInputStream(file)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(stream));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static String quote(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    static String format(HttpResponse<byte[]> response) {
        List<String> fields = new ArrayList<>();
        response.headers().map().forEach((name, values) -> values.forEach(
            value -> fields.add("[" + quote(name) + "," + quote(value) + "]")));
        String content = Base64.getEncoder().encodeToString(response.body());
        return "[" + response.statusCode() + ",\"\",[" + String.join(",", fields) + "]," + quote(content) + "]";
    }

    public static void main(String[] arguments) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder()
            .sslContext(trusting(System.getenv("SSL_CERT_FILE")))
            .followRedirects(HttpClient.Redirect.NORMAL);
        String proxy = System.getenv("HTTP_PROXY");
        if (proxy != null) {
            URI uri = URI.create(proxy);
            builder.proxy(ProxySelector.of(new InetSocketAddress(uri.getHost(), uri.getPort())));
        }
        HttpClient client = builder.build();
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] parts = line.split("\t", -1);
            byte[] content = Base64.getDecoder().decode(parts[2]);
            var publisher = content.length == 0
                ? HttpRequest.BodyPublishers.noBody()
                : HttpRequest.BodyPublishers.ofByteArray(content);
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(parts[1])).method(parts[0], publisher);
            for (int index = 3; index < parts.length; index += 2) request.header(parts[index], parts[index + 1]);
            System.out.println(format(client.send(request.build(), HttpResponse.BodyHandlers.ofByteArray())));
        }
        System.exit(0);
    }
}
