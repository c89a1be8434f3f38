"""Real TLS clients accept the proxy's leaves, and refuse what a thief of the CA's key could make for other hosts.

Every client trusts the anchor as its users would make it, and meets a TLS server on loopback. The thief's certificates
are made here, with nothing of the product but its key, and differ from one that every client accepts in a name alone.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.interception.contexts import ServerContexts
from proxy.interception.names import Constraints, parse_name
from proxy.interception.organisation import load_organisation_ca
from proxy.interception.store import load_or_create
from tests.unit.test_interception_organisation import ROOT, make_ca, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.interception.authority import InterceptionCA
    from proxy.interception.organisation import OrganisationCA
    from proxy.interception.signing import SigningKey

TIMEOUT_S = 120  # Java compiles its program first
NOW = datetime.now(UTC)

ROUTES = {
    "names": ["routed.test", "orders.contoso.test", "*.apis.test"],
    "addresses": ["127.0.0.1", "::1"],
    "both": ["routed.test", "127.0.0.1"],
    "many": ["routed.test", *(f"orders-{number}.{'long' * 10}.contoso.test" for number in range(50)), "127.0.0.1"],
    "organisation": ["routed.test", "orders.contoso.test", "*.apis.test"],
}
MINTED = {
    "names": ["routed.test", "orders.contoso.test", "orders.apis.test"],
    "addresses": ["127.0.0.1", "::1"],
    "both": ["routed.test", "127.0.0.1"],
    "many": [
        "routed.test",
        f"orders-1.{'long' * 10}.contoso.test",
        f"orders-49.{'long' * 10}.contoso.test",
        "127.0.0.1",
    ],
    "organisation": ["routed.test", "orders.contoso.test", "orders.apis.test", "v2.orders.apis.test"],
}
STOLEN = {
    "names": ["victim.test", "victimrouted.test", "test", "*.contoso.test", "127.0.0.1", "::1"],
    "addresses": ["victim.test", "127.0.0.2", "::2"],
    "both": ["victim.test", "127.0.0.2", "::1"],
    "many": ["victim.test", "contoso.test", "127.0.0.2", "::1"],
    "organisation": ["victim.test", "*.contoso.test", "127.0.0.1"],
}


# What the thief does


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _sign(
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    issuer_key: SigningKey,
    *,
    name: str | None,
    common_name: str,
    is_ca: bool = False,
) -> x509.Certificate:
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    usage = dict.fromkeys(
        ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"], False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(minutes=30))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                **usage, decipher_only=False, digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )
    if name is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _server_context(key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate], directory: Path) -> ssl.SSLContext:
    path = directory / f"{chain[0].serial_number:x}.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + b"".join(c.public_bytes(pem) for c in chain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def _stolen(ca: InterceptionCA | OrganisationCA, name: str, directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = ca.choose(parse_name(name.replace("*", "any")), NOW)
    leaf = _sign(key, signer.issuer, signer.key, name=name, common_name="a leaf of the thief")
    return _server_context(key, [leaf, *signer.chain], directory)


def _stolen_without_san(ca: InterceptionCA | OrganisationCA, name: str, directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = ca.choose(parse_name(name.replace("*", "any")), NOW)
    leaf = _sign(key, signer.issuer, signer.key, name=None, common_name=name)
    return _server_context(key, [leaf, *signer.chain], directory)


def _stolen_through_sub_ca(ca: InterceptionCA | OrganisationCA, name: str, directory: Path) -> ssl.SSLContext:
    sub_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    signer = ca.choose(parse_name(name.replace("*", "any")), NOW)
    sub_ca = _sign(sub_key, signer.issuer, signer.key, name=None, common_name="a CA of the thief", is_ca=True)
    leaf = _sign(key, sub_ca, sub_key, name=name, common_name="a leaf of the thief")
    return _server_context(key, [leaf, sub_ca, *signer.chain], directory)


# The servers


def _answer_once(connection: socket.socket, context: ssl.SSLContext) -> None:
    with connection:
        connection.settimeout(TIMEOUT_S)
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                head = b""
                while b"\r\n\r\n" not in head and (more := tls.recv(4096)):
                    head += more
                if head:
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        except OSError:
            pass  # the client refused us, which is what some are here for


@contextmanager
def _serving(context: ssl.SSLContext) -> Iterator[int]:
    """Yield the port of a TLS server that answers one client after another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                if stopping.is_set():
                    connection.close()
                    return
                _answer_once(connection, context)

        stopping = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield port
        finally:
            stopping.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join(TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Meeting:
    """A server that a client is to meet under a name, and whether it is to be believed."""

    what: str
    name: str
    port: int
    genuine: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """The servers below one CA, and the anchor a client is given."""

    directory: Path
    anchor: Path
    meetings: list[Meeting]


def _made_by_the_proxy(directory: Path, hosts: list[str]) -> tuple[InterceptionCA | OrganisationCA, Path]:
    return load_or_create(directory / "state", hosts, NOW).current, directory / "state" / "ca.pem"


def _organisations(directory: Path, hosts: list[str]) -> tuple[InterceptionCA | OrganisationCA, Path]:
    """Two CAs deep, and the clients trust the root alone."""
    upper = make_ca("Contoso Issuing", ROOT, path_length=1)
    constraints = Constraints.of_hosts(hosts).extension()
    settings = write(directory, make_ca("Contoso Proxies", upper, path_length=0, constraints=constraints), upper, ROOT)
    ca = load_organisation_ca(settings, hosts)
    assert ca is not None
    (directory / "root.pem").write_bytes(ca.trusted_pem())
    return ca, directory / "root.pem"


@pytest.fixture(scope="module", params=list(ROUTES))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    routes: str = request.param
    directory = tmp_path_factory.mktemp(routes)
    ca, anchor = (_organisations if routes == "organisation" else _made_by_the_proxy)(directory, ROUTES[routes])
    contexts = ServerContexts(ca, ROUTES[routes])
    servers = [("minted", name, contexts.context_for(name), True) for name in MINTED[routes]]
    servers += [("stolen key, routed name", name, _stolen(ca, name, directory), True) for name in MINTED[routes]]
    for name in STOLEN[routes]:
        wanted = name.replace("*", "victim")
        servers.append((f"stolen key, {name}", wanted, _stolen(ca, name, directory), False))
    servers.append(("stolen key, no SAN", "victim.test", _stolen_without_san(ca, "victim.test", directory), False))
    # The name itself is permitted: what stops this one is the path length.
    inside = MINTED[routes][0]
    servers.append(("stolen key, CA below", inside, _stolen_through_sub_ca(ca, inside, directory), False))
    with ExitStack() as stack:
        yield Scene(
            directory,
            anchor,
            [
                Meeting(what, name, stack.enter_context(_serving(context)), genuine)
                for what, name, context, genuine in servers
            ],
        )


# The clients


class Client(Protocol):
    """Meets every server, and returns its verdict on each: "" where it got the response, else why it refused."""

    def __call__(self, scene: Scene) -> list[str]: ...


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(
        command,
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _is_address(name: str) -> bool:
    return isinstance(_general_name(name), x509.IPAddress)


def _curl(scene: Scene) -> list[str]:
    verdicts = []
    for meeting in scene.meetings:
        host = f"[{meeting.name}]" if ":" in meeting.name else meeting.name
        target = f"{host}:{meeting.port}"
        command = ["curl", "-q", "-sS", "--cacert", str(scene.anchor), f"https://{target}/"]
        done = _run([*command, "--connect-to", f"{target}:127.0.0.1:{meeting.port}"])
        assert done.returncode in {0, 60}, done.stderr  # 60: the certificate is not accepted
        verdicts.append("" if done.stdout == "ok" else done.stderr)
    return verdicts


def _openssl(scene: Scene) -> list[str]:
    verdicts = []
    for meeting in scene.meetings:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{meeting.port}", "-CAfile", str(scene.anchor)]
        command += ["-brief", "-x509_strict", "-verify_return_error"]
        if _is_address(meeting.name):
            command += ["-noservername", "-verify_ip", meeting.name]
        else:
            command += ["-servername", meeting.name, "-verify_hostname", meeting.name]
        done = _run(command)
        assert ("Verification: OK" in done.stderr) is (done.returncode == 0)
        verdicts.append("" if done.returncode == 0 else done.stderr)
    return verdicts


def _python(scene: Scene) -> list[str]:
    context = ssl.create_default_context(cafile=str(scene.anchor))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    verdicts = []
    for meeting in scene.meetings:
        with socket.create_connection(("127.0.0.1", meeting.port), timeout=TIMEOUT_S) as connection:
            try:
                with context.wrap_socket(connection, server_hostname=meeting.name) as tls:
                    tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    assert tls.recv(4096).startswith(b"HTTP/1.1 200")
                    verdicts.append("")
            except ssl.SSLCertVerificationError as error:
                verdicts.append(error.verify_message)
    return verdicts


NODE = """
const net = require('net'), tls = require('tls');
const verdict = ([name, port]) => new Promise(done => {
  const socket = net.connect(port, '127.0.0.1', () => {
    const secured = tls.connect({socket, host: name, servername: net.isIP(name) ? '' : name});
    secured.on('secureConnect', () => secured.write('GET / HTTP/1.1\\r\\n\\r\\n'));
    secured.on('data', data => done(String(data).startsWith('HTTP/1.1 200') ? '' : String(data)));
    secured.on('error', error => done(error.message));
  });
});
(async () => {
  const verdicts = [];
  for (const meeting of JSON.parse(process.argv[1])) verdicts.push(await verdict(meeting));
  console.log(JSON.stringify(verdicts));
  process.exit(0);
})();
"""


def _node(scene: Scene) -> list[str]:
    meetings = json.dumps([[meeting.name, meeting.port] for meeting in scene.meetings])
    done = _run(["node", "-e", NODE, meetings], NODE_EXTRA_CA_CERTS=str(scene.anchor))
    assert done.returncode == 0, done.stderr
    verdicts: list[str] = json.loads(done.stdout)
    return verdicts


JAVA = """
import java.io.*;
import java.net.*;
import javax.net.ssl.*;

public class Meet {
  public static void main(String[] arguments) throws Exception {
    SSLSocketFactory factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
    for (int i = 0; i < arguments.length; i += 2) {
      int port = Integer.parseInt(arguments[i + 1]);
      try (Socket plain = new Socket("127.0.0.1", port);
           SSLSocket tls = (SSLSocket) factory.createSocket(plain, arguments[i], port, true)) {
        SSLParameters parameters = tls.getSSLParameters();
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        tls.setSSLParameters(parameters);
        tls.getOutputStream().write("GET / HTTP/1.1\\r\\n\\r\\n".getBytes());
        String line = new BufferedReader(new InputStreamReader(tls.getInputStream())).readLine();
        System.out.println("HTTP/1.1 200 OK".equals(line) ? "" : line);
      } catch (SSLHandshakeException refused) {
        System.out.println(refused.getMessage());
      }
    }
  }
}
"""


def _java(scene: Scene) -> list[str]:
    store = scene.directory / "trust.p12"
    options = ["-storetype", "PKCS12", "-keystore", str(store), "-storepass", "changeit"]
    imported = _run(["keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", str(scene.anchor), *options])
    assert imported.returncode == 0, imported.stdout
    source = scene.directory / "Meet.java"
    source.write_text(JAVA)
    trust = [f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStorePassword=changeit"]
    arguments = [text for meeting in scene.meetings for text in (meeting.name, str(meeting.port))]
    done = _run(["java", "-XX:TieredStopAtLevel=1", *trust, str(source), *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _needs(*commands: str) -> pytest.MarkDecorator:
    missing = [command for command in commands if shutil.which(command) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed here: {', '.join(missing)}")


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(_curl, id="curl", marks=_needs("curl")),
        pytest.param(_openssl, id="openssl", marks=_needs("openssl")),
        pytest.param(_python, id="python"),
        pytest.param(_node, id="node", marks=_needs("node")),
        pytest.param(_java, id="java", marks=_needs("java", "keytool")),
    ],
)
def test_a_client_believes_the_routed_hosts_and_a_stolen_key_gets_no_other(client: Client, scene: Scene) -> None:
    """A refusal counts only where the constraints, the path length or the name is what the client objects to."""
    verdicts = client(scene)
    assert len(verdicts) == len(scene.meetings)
    objections = ("permitted subtree", "excluded subtree", "name constraints", "path length", "pathLen")
    for meeting, verdict in zip(scene.meetings, verdicts, strict=True):
        if meeting.genuine:
            assert verdict == "", f"{meeting.what} as {meeting.name} was refused"
        else:
            assert any(words.lower() in verdict.lower() for words in objections), (meeting, verdict)
