// A program that calls an API with java.net.http, and says in which version of HTTP it was answered: java Http2Calls.java URL [PROXY]
//
// It offers HTTP/2 and HTTP/1.1, as this client always does. The CA is the file in SSL_CERT_FILE.

import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Http2Calls {
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

    static void say(String what, HttpResponse<?> response, int read) {
        String version = response.version() == HttpClient.Version.HTTP_2 ? "HTTP/2.0" : "HTTP/1.1";
        System.out.println(what + " " + version + " " + response.statusCode() + " " + read);
    }

    public static void main(String[] arguments) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder()
            .sslContext(trusting(System.getenv("SSL_CERT_FILE")))
            .version(HttpClient.Version.HTTP_2);
        if (arguments.length > 1) {
            URI proxy = URI.create("http://" + arguments[1]);
            builder.proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())));
        }
        HttpClient client = builder.build();
        String base = arguments[0];
        var whole = HttpResponse.BodyHandlers.ofByteArray();

        HttpRequest get = HttpRequest.newBuilder(URI.create(base + "/bytes/70000")).build();
        var first = client.send(get, whole);
        say("first", first, first.body().length);
        List<CompletableFuture<HttpResponse<byte[]>>> calls = new ArrayList<>();
        for (int index = 0; index < 20; index++) calls.add(client.sendAsync(get, whole));
        for (var call : calls) say("together", call.get(), call.get().body().length);
        // A stream has no length that anybody knows.
        var content = HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(new byte[1_000_000]));
        var upload = client.send(HttpRequest.newBuilder(URI.create(base + "/echo")).POST(content).build(), whole);
        say("upload", upload, upload.body().length);
        var nothing = HttpRequest.BodyPublishers.noBody();
        var head = client.send(HttpRequest.newBuilder(URI.create(base + "/bytes/1000")).method("HEAD", nothing).build(), whole);
        say("head", head, head.body().length);
        var large = HttpRequest.newBuilder(URI.create(base + "/bytes/10000000")).build();
        var left = client.send(large, HttpResponse.BodyHandlers.ofInputStream());
        InputStream stream = left.body();
        stream.read();
        stream.close(); // RST_STREAM
        say("left", left, 1);
        var last = client.send(HttpRequest.newBuilder(URI.create(base + "/status/204")).build(), whole);
        say("last", last, last.body().length);
        System.exit(0);
    }
}
