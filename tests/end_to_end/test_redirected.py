"""Programs without any setting but the CA: the kernel leads their connections to the proxy, as a sidecar and as a gateway.

In network namespaces, with the rules of deploy/nftables as they are. The proxy runs as a user without any capability.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from tests.client_hellos import ECH, extension, message, records, server_name
from tests.end_to_end.chromium import PROGRAM
from tests.end_to_end.leaks import learn_key
from tests.end_to_end.programs import COMMAND, ROOT, ProxyProgram, run_program, write_configuration
from tests.end_to_end.redirected import (
    ADDRESSES,
    BILLING,
    LOGIN,
    ORDERS,
    OTHER,
    TOKEN,
    WRONG_ADDRESS,
    World,
    attach,
    made_world,
    speak_everywhere,
    wait_until,
    write_hosts,
)
from tests.network_namespaces import Namespace, made_namespace, needs_nftables
from tests.other_user import USER, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.programs import Configuration

pytestmark = needs_nftables

PORT = 8085
# Fewer where somebody waits for them.
CONNECTIONS = 10_000 if "CI" in os.environ else 2_000
SIDECAR, GATEWAY = (ROOT / "deploy/nftables" / name for name in ("sidecar.nft", "gateway.nft"))


@dataclass(frozen=True, slots=True)
class Scene:
    """A proxy whose listener connections are redirected to.

    Attributes:
        program: where programs run.
        pod: where the proxy runs; the same, as a sidecar.
        proxy: the proxy.
        directory: its own.
    """

    program: Namespace
    pod: Namespace
    proxy: ProxyProgram
    directory: Path

    def get(self, url: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Return status and content, as a program gets them that knows nothing of a proxy; status 0 without a response."""
        arguments = ("--silent", "--show-error", "--cacert", str(self.proxy.ca_file), "--max-time", "50", *options)
        done = run_program(self.program.command("curl", *arguments, "--write-out", "\n%{http_code}", url))
        content, _, status = done.stdout.decode().rpartition("\n")
        return int(status), json.loads(content) if content else {"complaint": done.stderr}


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def world(ca: trustme.CA) -> Iterator[World]:
    with made_world(ca) as made:
        yield made


def _start(
    stack: ExitStack, pod: Namespace, program: Namespace, ca: trustme.CA, evidence: Path, **changes: object
) -> Scene:
    """Start a proxy in the pod, as a user without capabilities."""
    directory = stack.enter_context(open_directory())
    (directory / "clientapp.pem").touch(0o600)
    pair = ca.issue_cert("clientapp.example.test", key_type=trustme.KeyType.RSA).private_key_and_cert_chain_pem
    pair.write_to_path(directory / "clientapp.pem")
    learn_key(f"the client key of {pod.name}", (directory / "clientapp.pem").read_text(encoding="ascii"))
    ca.cert_pem.write_to_path(directory / "world.pem")
    settings: Configuration = {
        "credentials": {
            "client": {
                "token_endpoint": f"https://{LOGIN}/token",
                "client_id": "client",
                "certificate": "clientapp.pem",
                "ca_file": "world.pem",
            }
        },
        "routes": [{"hosts": [ORDERS, BILLING], "credential": "client", "scope": "orders", "ca_file": "world.pem"}],
        "admin": {"address": "127.0.0.1:0"},
        "state_directory": "state",
        "timeouts": {"drain_s": 0.5},
        **changes,
    }
    proxy = stack.enter_context(
        ProxyProgram(settings, directory, evidence, f"proxy-{pod.name}", wrapper=pod.command(owns=directory))
    )
    return Scene(program, pod, proxy, directory)


def _listeners(*hosts: str) -> list[dict[str, object]]:
    return [{"address": f"{host}:{PORT}", "mode": "transparent"} for host in hosts]


@pytest.fixture(scope="module")
def sidecar(world: World, ca: trustme.CA, evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A program and the proxy in one pod; other hosts are refused."""
    with ExitStack() as stack:
        pod = stack.enter_context(made_namespace())
        attach(pod, world.namespace, 1, "eth1")
        pod.files["/etc/hosts"] = write_hosts(tmp_path_factory.mktemp("pod"))
        pod.run("nft", "-f", SIDECAR)
        yield _start(stack, pod, pod, ca, evidence, listeners=_listeners("127.0.0.1", "[::1]"))


@pytest.fixture(scope="module")
def passing(world: World, ca: trustme.CA, evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The same; other hosts are passed on."""
    with ExitStack() as stack:
        pod = stack.enter_context(made_namespace())
        attach(pod, world.namespace, 2, "eth2")
        pod.files["/etc/hosts"] = write_hosts(tmp_path_factory.mktemp("pod"))
        pod.run("nft", "-f", SIDECAR)
        changes: dict[str, object] = {
            "listeners": _listeners("127.0.0.1", "[::1]"),
            "other_hosts": "tunnel",
            "destinations": {"allow": ["203.0.113.0/24", "2001:db8::/32"]},
            "timeouts": {"drain_s": 0.5, "head_s": 3},
        }
        yield _start(stack, pod, pod, ca, evidence, **changes)


@pytest.fixture(scope="module")
def gateway(world: World, ca: trustme.CA, evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A program on one machine, and the proxy on another that is its way out."""
    with ExitStack() as stack:
        program, router = stack.enter_context(made_namespace()), stack.enter_context(made_namespace())
        attach(router, world.namespace, 3, "eth3")
        attach(program, router, 4, "eth1")
        program.files["/etc/hosts"] = router.files["/etc/hosts"] = write_hosts(tmp_path_factory.mktemp("router"))
        router.run("nft", "-f", GATEWAY)
        router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        changes: dict[str, object] = {
            "listeners": _listeners(str(IPv4Address(0)), "[::]"),
            "workers": 2,
            "clients": [{"name": "inside", "networks": ["10.77.4.2/32", "fd00:77:4::/64"]}],
        }
        yield _start(stack, router, program, ca, evidence, **changes)


@pytest.mark.parametrize("host", [ORDERS, BILLING])
@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize("scene", ["sidecar", "gateway"])
def test_a_program_without_any_setting_reaches_routed_hosts(
    scene: str, family: str, scheme: str, host: str, request: pytest.FixtureRequest
) -> None:
    """Both APIs, with a token, over TLS whose certificate the proxy has verified; http becomes https."""
    made: Scene = request.getfixturevalue(scene)
    status, content = made.get(f"{scheme}://{host}/", family)
    assert status == 200, (content, made.proxy.lines)
    assert (content["host"], content["tls"]) == (host, True)
    assert content["authorization"] == f"Bearer {TOKEN}"
    line = made.proxy.wait_for_exchange(mode="transparent", status=200, authority=f"{host}:443")
    assert line["client"] in {"10.77.1.2", "10.77.4.2", "fd00:77:1::2", "fd00:77:4::2"}, "the program's own address"


# Rule 1: whom a connection is for is what it names; where it was going decides nothing for a routed host.


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("address", [WRONG_ADDRESS, ADDRESSES[OTHER][0]], ids=["nobody's", "another server's"])
def test_a_routed_host_is_never_reached_at_the_address_that_a_program_has_found(
    sidecar: Scene, scheme: str, address: str
) -> None:
    port = {"https": 443, "http": 80}[scheme]
    status, content = sidecar.get(f"{scheme}://{ORDERS}/", "--resolve", f"{ORDERS}:{port}:{address}")
    assert (status, content["at"]) == (200, ADDRESSES[ORDERS][0])


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_host_has_to_agree_with_what_the_connection_is_for(sidecar: Scene, scheme: str) -> None:
    """The server name for TLS; for plain http, the first request's Host holds for the whole connection."""
    first, second = f"{scheme}://{ORDERS}/first", f"{scheme}://{ORDERS}/second"
    usual = ["--silent", "--cacert", str(sidecar.proxy.ca_file), "--output", "/dev/null"]
    usual += ["--write-out", "%{http_code} %{num_connects}\n"]
    other = ["--next", *usual, "-H", f"Host: {BILLING}", second]
    done = run_program(sidecar.program.command("curl", *usual, first, *other))
    assert done.stdout.decode().split("\n")[:2] == ["200 1", "421 0"]
    assert sidecar.proxy.wait_for_exchange(mode="transparent", status=421, path="/second")


def test_host_names_the_port_that_the_connection_was_going_to(sidecar: Scene) -> None:
    assert sidecar.get(f"http://{ORDERS}/", "-H", f"Host: {ORDERS}:80")[0] == 200
    assert sidecar.get(f"http://{ORDERS}/", "-H", f"Host: {ORDERS}:443")[0] == 421


def test_a_web_page_of_another_site_gets_nothing(sidecar: Scene) -> None:
    """A browser whose connections are redirected sends what pages ask for like any other program."""
    status, problem = sidecar.get(f"https://{ORDERS}/", "-H", "Sec-Fetch-Site: cross-site")
    assert (status, problem["code"]) == (403, "cross_site")
    assert sidecar.get(f"https://{ORDERS}/", "-H", f"Origin: https://{ORDERS}")[0] == 200


# Rules 2 and 3: what no route has, or names nothing.


@pytest.mark.parametrize(
    "host", [OTHER, ADDRESSES[ORDERS][0], f"[{ADDRESSES[ORDERS][1]}]"], ids=["name", "IPv4", "IPv6"]
)
def test_what_no_route_has_is_refused_in_words_of_its_protocol(sidecar: Scene, host: str) -> None:
    """An address is no server name, so a connection to one says of no host that it is for it."""
    status, problem = sidecar.get(f"http://{host}/")
    assert (status, problem["code"]) == (403, "host_refused")
    assert sidecar.proxy.wait_for_exchange(mode="transparent", status=403, authority=f"{host}:80")
    status, failure = sidecar.get(f"https://{host}/", "--insecure")
    assert (status, "unrecognized name" in failure["complaint"]) == (0, True), failure
    code = "host_refused" if host == OTHER else "host_not_named"
    assert sidecar.proxy.wait_for_exchange(mode="transparent", status=None, code=code, outcome="http_request_denied")


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_what_no_route_has_is_passed_on_unopened_to_its_original_address(
    passing: Scene, family: str, scheme: str
) -> None:
    """The program verifies the server's own certificate; no token goes there."""
    status, content = passing.get(f"{scheme}://{OTHER}/", family, "--cacert", str(passing.directory / "world.pem"))
    assert (status, content["authorization"], content["tls"]) == (200, None, scheme == "https")
    assert content["at"] in ADDRESSES[OTHER]
    assert passing.proxy.wait_for_exchange(mode="tunnel", client=("10.77.2.2" if family == "-4" else "fd00:77:2::2"))


def test_where_it_is_passed_on_to_is_not_what_it_names(passing: Scene) -> None:
    """Neither the server name nor Host leads a connection anywhere."""
    status, content = passing.get(f"http://{OTHER}/", "--resolve", f"{OTHER}:80:{ADDRESSES[BILLING][0]}")
    assert (status, content["at"], content["authorization"]) == (200, ADDRESSES[BILLING][0], None)
    address = ADDRESSES[BILLING][0]
    status, content = passing.get(f"https://{OTHER}/", "--insecure", "--resolve", f"{OTHER}:443:{address}")
    assert (status, content["at"], content["authorization"]) == (200, address, None)
    status, content = passing.get(f"https://{address}/", "--insecure")  # no server name
    assert (status, content["at"], content["authorization"]) == (200, address, None)


def test_what_may_not_be_dialled_is_not_passed_on_to(passing: Scene) -> None:
    """`destinations` says where connections may be passed on to, by the original address."""
    status, problem = passing.get(f"http://{OTHER}/", "--resolve", f"{OTHER}:80:10.77.2.1")
    assert (status, problem["code"]) == (403, "host_refused")
    assert "10.77.2.1, which is not a public address" in problem["detail"]
    status, failure = passing.get(f"https://{OTHER}/", "--resolve", f"{OTHER}:443:10.77.2.1")
    assert (status, "unrecognized name" in failure["complaint"]) == (0, True), failure


def _speak(scene: Scene, where: tuple[str, int], *pieces: bytes) -> bytes:
    """Send bytes from where programs are, and return all that comes until the end."""
    with scene.program.call(lambda: socket.create_connection(where, 30)) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65_536):
                received += block
    return received


def test_an_encrypted_client_hello_is_judged_by_its_outer_name(sidecar: Scene) -> None:
    """Nobody but the server it is for can tell an encrypted name from the random bytes that browsers send in its place."""
    for name, unrecognized in ((b"cloudflare-ech.example", True), (ORDERS.encode(), False)):
        hello = records(message(server_name(name), extension(ECH, bytes(200))))
        answer = _speak(sidecar, (ADDRESSES[OTHER][0], 443), hello)
        assert (answer == b"\x15\x03\x03\x00\x02\x02\x70") == unrecognized


@pytest.mark.skipif(PROGRAM is None and "CI" not in os.environ, reason="Chromium is not installed")
def test_a_browsers_client_hello_is_read(sidecar: Scene, tmp_path: Path) -> None:
    """With what it sends in the place of an encrypted one, extensions in any order, and a key share that fills two packets."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--ignore-certificate-errors", f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = run_program(sidecar.program.command(str(PROGRAM), *options, f"https://{ORDERS}/"))
    assert f"Bearer {TOKEN}" in done.stdout.decode(), done.stderr


def test_a_client_hello_in_pieces_is_waited_for(sidecar: Scene) -> None:
    hello = records(message(server_name(OTHER.encode())), [1, 20, 60])
    answer = _speak(sidecar, (ADDRESSES[OTHER][0], 443), *(hello[at : at + 1] for at in range(len(hello))))
    assert answer == b"\x15\x03\x03\x00\x02\x02\x70"


def test_what_is_neither_tls_nor_http_names_no_host(sidecar: Scene, passing: Scene) -> None:
    assert _speak(sidecar, (ADDRESSES[ORDERS][0], 443), b"\x00\x01\x02") == b""
    assert sidecar.proxy.wait_for_exchange(
        mode="transparent", code="host_not_named", authority=f"{ADDRESSES[ORDERS][0]}:443"
    )
    assert b"Error code: 400" in _speak(passing, (ADDRESSES[ORDERS][0], 80), b"\x00\x01\x02\r\n\r\n"), (
        "the server's own answer"
    )


def test_tls_on_port_80_is_nothing_that_a_route_means(sidecar: Scene) -> None:
    """`http://host` is the route's https; `https://host:80` is another authority."""
    answer = _speak(sidecar, (ADDRESSES[ORDERS][0], 80), records(message(server_name(ORDERS.encode()))))
    assert answer == b"\x15\x03\x03\x00\x02\x02\x70"


def test_a_malformed_client_hello_is_told_so(sidecar: Scene) -> None:
    answer = _speak(sidecar, (ADDRESSES[ORDERS][0], 443), b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00")
    assert answer == b"\x15\x03\x03\x00\x02\x02\x32"
    assert sidecar.proxy.wait_for_exchange(mode="transparent", code="client_hello_malformed")


# Who talks to the listener itself, and the proxy to itself.


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_program_that_connects_to_the_listener_itself_gets_508(sidecar: Scene, host: str) -> None:
    status, problem = sidecar.get(f"http://{host}:{PORT}/", "-H", f"Host: {ORDERS}")
    assert (status, problem["type"]) == (508, "urn:apim-auth-proxy:proxy_loop_detected")
    assert problem["code"] in ("not_redirected", "original_destination_unknown")
    assert sidecar.get(f"https://{host}:{PORT}/", "--insecure")[0] == 0
    assert sidecar.proxy.wait_for_exchange(mode="transparent", status=508)


def _check(scene: Scene) -> list[dict[str, str]]:
    """Return what `check` finds out about redirection, as the proxy's own user."""
    file = scene.directory / "config.yaml"
    done = run_program(scene.pod.command(COMMAND, "check", "--json", "--config", file, owns=scene.directory))
    return [one for one in json.loads(done.stdout)["findings"] if one["subject"] == "redirection"]


def test_rules_that_exempt_the_proxy_are_found_to_do_so(sidecar: Scene) -> None:
    assert [one["level"] for one in _check(sidecar)] == ["ok"]


def test_the_rules_that_init_prints_do_what_the_shipped_ones_do(sidecar: Scene) -> None:
    """They are for this machine: the port of its configuration, and the proxy's user; and there is a way back."""
    words = ("init", "--transparent", "--directory", sidecar.directory, "--proxy-user", str(USER))
    printed = run_program([COMMAND, *words])
    assert printed.stdout.decode() == SIDECAR.read_text(encoding="ascii")
    way_back = next(line for line in printed.stderr.splitlines() if "way back" in line).partition("sudo ")[2]
    sidecar.pod.run(*way_back.split())
    assert (
        sidecar.get(f"https://{ORDERS}/", "--cacert", str(sidecar.directory / "world.pem"))[1]["authorization"] is None
    )
    sidecar.pod.run("nft", "-f", "-", stdin=printed.stdout.decode())
    assert sidecar.get(f"https://{ORDERS}/")[1]["authorization"].startswith("Bearer ")


@pytest.fixture(scope="module")
def looping(world: World, ca: trustme.CA, evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A proxy whose own connections are redirected as well; other hosts are passed on."""
    with ExitStack() as stack:
        pod = stack.enter_context(made_namespace())
        attach(pod, world.namespace, 5, "eth5")
        pod.files["/etc/hosts"] = write_hosts(tmp_path_factory.mktemp("pod"))
        rules = SIDECAR.read_text(encoding="ascii").replace("define proxy_user = 65532", "define proxy_user = 1")
        pod.run("nft", "-f", "-", stdin=rules)
        changes: dict[str, object] = {
            "listeners": _listeners("127.0.0.1", "[::1]"),
            "other_hosts": "tunnel",
            "destinations": {"allow": ["203.0.113.0/24"]},
        }
        yield _start(stack, pod, pod, ca, evidence, **changes)


def test_rules_without_the_exemption_lead_the_proxy_to_itself_once(looping: Scene) -> None:
    """A tunnel's own connection comes back, and is known by where it begins and ends; the program sees the end at once."""
    assert looping.get(f"https://{OTHER}/", "-4", "--insecure")[0] == 0
    status, problem = looping.get(f"http://{OTHER}/", "-4")
    assert (status, problem["code"]) == (508, "redirect_loop")
    assert looping.proxy.wait_for_exchange(mode="transparent", status=508)
    lines = [line for line in looping.proxy.exchanges if line["code"] == "redirect_loop"]
    loops = [line for line in lines if str(line["authority"]).startswith(ADDRESSES[OTHER][0])]
    assert len(loops) == 2, "one for each"
    (finding,) = _check(looping)
    assert finding["level"] == "error"
    assert "port 443 and port 80" in finding["message"]
    assert "init --transparent" in finding["advice"]


def test_a_connection_that_has_not_said_what_it_is_for_follows_its_listener(looping: Scene) -> None:
    """Where the listener has another mode by then, the connection is cut: it would be read in another way."""
    with looping.program.call(lambda: socket.create_connection((ADDRESSES[ORDERS][0], 443), 30)) as undecided:
        undecided.sendall(b"\x16\x03")
        settings = yaml.safe_load((looping.directory / "config.yaml").read_text(encoding="utf-8"))
        file = write_configuration(settings | {"listeners": [{"address": f"127.0.0.1:{PORT}"}]}, looping.directory)
        shutil.chown(file, USER, USER)
        with contextlib.suppress(ConnectionResetError):
            assert undecided.recv(1) == b""


# Rule 4: a time limit for the first byte.


def test_a_program_that_waits_for_the_server_to_speak_is_given_up(passing: Scene) -> None:
    """One that begins a request, and does not get on, is told so."""
    silent, slow = (
        passing.program.call(lambda: socket.create_connection((ADDRESSES[ORDERS][0], 80), 30)) for _ in "12"
    )
    with silent, slow:
        slow.sendall(f"GET / HTTP/1.1\r\nHost: {ORDERS}\r\n".encode())
        assert silent.recv(1) == b""
        assert slow.recv(65_536).startswith(b"HTTP/1.1 408 ")
    line = passing.proxy.wait_for_exchange(mode="transparent", code="first_byte_missing")
    assert line["authority"] == f"{ADDRESSES[ORDERS][0]}:80"


# Rule 5: what the shipped rules do beside that.


def _ask(connection: socket.socket) -> bytes:
    connection.sendall(b"an initial packet of QUIC")
    return connection.recv(1)


@pytest.mark.parametrize("scene", ["sidecar", "gateway"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_quic_is_refused_at_once(scene: str, family: int, request: pytest.FixtureRequest) -> None:
    """A browser comes back over TCP; without an answer it would wait."""
    made: Scene = request.getfixturevalue(scene)
    kind = (socket.AF_INET, socket.AF_INET6)[family]
    with made.program.call(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as connection:
        connection.settimeout(30)
        connection.connect((ADDRESSES[ORDERS][family], 443))
        with pytest.raises((ConnectionRefusedError, PermissionError)):  # here already, or by ICMP from the gateway
            _ask(connection)


def test_loopback_is_left_alone(sidecar: Scene) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(sidecar.pod.call(lambda: socket.create_server(("127.0.0.1", 80))))
        client = stack.enter_context(sidecar.pod.call(lambda: socket.create_connection(("127.0.0.1", 80), 30)))
        accepted = stack.enter_context(server.accept()[0])
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"


def test_who_is_not_among_the_clients_gets_nothing(gateway: Scene) -> None:
    """The peer is the program's machine, and `clients.networks` sees it."""
    gateway.program.ip("address", "add", "10.77.4.3/24", "dev", "eth1")
    status, problem = gateway.get(f"http://{ORDERS}/", "--interface", "10.77.4.3")
    assert (status, problem["code"]) == (403, "unknown_client")
    assert gateway.get(f"https://{ORDERS}/", "--interface", "10.77.4.2")[0] == 200


def test_many_connections_leave_nothing_behind(sidecar: Scene) -> None:
    """Served, refused and given up in turn; descriptors and what is counted are as before."""
    request_bytes = f"GET / HTTP/1.1\r\nHost: {ORDERS}\r\nConnection: close\r\n\r\n".encode()
    refused = records(message(server_name(OTHER.encode())))
    descriptors = Path(f"/proc/{sidecar.proxy.process.pid}/fd")

    def speak(number: int) -> bytes:
        if number % 3 == 2:
            with socket.create_connection((ADDRESSES[ORDERS][0], 443), 30) as connection:
                connection.sendall(refused[:50])
            return b""
        secure = number % 3 == 1
        with socket.create_connection((ADDRESSES[ORDERS][0], 443 if secure else 80), 30) as connection:
            connection.sendall(refused if secure else request_bytes)
            received = b""
            while block := connection.recv(65_536):
                received += block
            return received[:12]

    assert speak_everywhere(sidecar.program, speak, 8) == {b"HTTP/1.1 200", b"\x15\x03\x03\x00\x02\x02\x70", b""}
    before = len(list(descriptors.iterdir()))
    assert speak_everywhere(sidecar.program, speak, CONNECTIONS) == {
        b"HTTP/1.1 200",
        b"\x15\x03\x03\x00\x02\x02\x70",
        b"",
    }
    wait_until(lambda: len(list(descriptors.iterdir())) <= before + 8)
