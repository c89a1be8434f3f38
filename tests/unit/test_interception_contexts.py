"""Server contexts: cached, renewed in time, bounded, and what they offer in the handshake. All in memory."""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from proxy.errors import ConfigurationError
from proxy.interception.authority import InterceptionCA, issue
from proxy.interception.contexts import ServerContexts, ServerTLS

if TYPE_CHECKING:
    from pathlib import Path

HOSTS = ["contoso.azure-api.net", "*.apis.contoso.com", "127.0.0.1"]
DAY_S = 86_400.0


@dataclass
class Clock:
    now: float

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Starts at the real time, for OpenSSL knows no other when it verifies."""
    return Clock(datetime.now(UTC).timestamp())


@pytest.fixture(scope="module")
def ca() -> InterceptionCA:
    return issue(HOSTS, datetime.now(UTC), reason="created")


def _client_context(ca: InterceptionCA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=ca.anchor_pem().decode())
    return context


def _handshake(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    name: str | None,
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return client's and server's end after a handshake and one byte each way (session tickets come with it)."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    client.write(b"?")
    assert server.read(1) == b"?"
    server.write(b"!")
    assert client.read(1) == b"!"
    return client, server


def _shown(client: ssl.SSLObject) -> x509.Certificate:
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


@pytest.mark.parametrize("host", ["contoso.azure-api.net", "orders.apis.contoso.com", "127.0.0.1"])
def test_a_strict_client_accepts_the_context_of_the_host_it_wants(ca: InterceptionCA, host: str) -> None:
    contexts = ServerContexts(ca, HOSTS)
    client, _ = _handshake(contexts.context_for(host), _client_context(ca), host)
    assert client.version() == "TLSv1.3"


def test_a_client_refuses_the_context_of_another_host(ca: InterceptionCA) -> None:
    contexts = ServerContexts(ca, HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(contexts.context_for("a.apis.contoso.com"), _client_context(ca), "a.b.apis.contoso.com")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        pytest.param(["h2", "http/1.1"], "http/1.1", id="both"),
        pytest.param(["http/1.1"], "http/1.1", id="http-1.1"),
        pytest.param(["h2"], "h2", id="h2-only"),
        pytest.param(None, None, id="none"),
    ],
)
def test_http_1_1_comes_first_and_http_2_for_who_has_nothing_else(
    ca: InterceptionCA, offered: list[str] | None, chosen: str | None
) -> None:
    client_context = _client_context(ca)
    if offered is not None:
        client_context.set_alpn_protocols(offered)
    client, _ = _handshake(ServerContexts(ca).context_for(HOSTS[0]), client_context, HOSTS[0])
    assert client.selected_alpn_protocol() == chosen


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the old versions are the point
def test_nothing_below_tls_1_2_is_spoken(ca: InterceptionCA) -> None:
    server_context = ServerContexts(ca).context_for(HOSTS[0])
    twelve = _client_context(ca)
    twelve.maximum_version = ssl.TLSVersion.TLSv1_2
    client, _ = _handshake(server_context, twelve, HOSTS[0])
    assert client.version() == "TLSv1.2"
    eleven = _client_context(ca)
    eleven.minimum_version = eleven.maximum_version = ssl.TLSVersion.TLSv1_1
    eleven.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        _handshake(server_context, eleven, HOSTS[0])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_returns_resumes_its_session(ca: InterceptionCA, version: ssl.TLSVersion) -> None:
    server_context = ServerContexts(ca).context_for(HOSTS[0])
    client_context = _client_context(ca)
    client_context.minimum_version = client_context.maximum_version = version
    first, _ = _handshake(server_context, client_context, HOSTS[0])
    assert not first.session_reused
    second, _ = _handshake(server_context, client_context, HOSTS[0], session=first.session)
    assert second.session_reused


@pytest.mark.parametrize("name", ["contoso.azure-api.net", "other.example", None])
def test_the_server_remembers_the_name_the_client_asked_for(ca: InterceptionCA, name: str | None) -> None:
    client_context = _client_context(ca)
    client_context.check_hostname = False
    _, server = _handshake(ServerContexts(ca).context_for(HOSTS[0]), client_context, name)
    assert isinstance(server, ServerTLS)
    assert server.requested_name == name


def test_a_context_is_made_when_it_is_first_asked_for(ca: InterceptionCA) -> None:
    """G4: made at the start, those of 2,000 hosts took six seconds and 800 MB."""
    contexts = ServerContexts(ca, HOSTS)
    assert len(contexts) == 0
    contexts.context_for(HOSTS[0])
    assert len(contexts) == 1


def test_a_context_is_made_once_however_the_host_is_spelled(ca: InterceptionCA) -> None:
    contexts = ServerContexts(ca)
    made = contexts.context_for("contoso.azure-api.net")
    assert contexts.context_for("contoso.azure-api.net") is made
    assert contexts.context_for("Contoso.Azure-API.net.") is made
    assert len(contexts) == 1


def test_a_leaf_is_renewed_well_before_it_ends(ca: InterceptionCA, clock: Clock) -> None:
    contexts = ServerContexts(ca, clock=clock)
    first = contexts.context_for(HOSTS[0])
    clock.now += 4 * DAY_S
    assert contexts.context_for(HOSTS[0]) is first
    clock.now += 1 * DAY_S
    second = contexts.context_for(HOSTS[0])
    assert second is not first
    assert len(contexts) == 1
    client_context = _client_context(ca)
    old, _ = _handshake(first, client_context, HOSTS[0])
    renewed = _shown(old).not_valid_after_utc + timedelta(days=5)
    # The new leaf begins in the future of OpenSSL's clock, so it is read without verifying.
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    new, _ = _handshake(second, client_context, HOSTS[0])
    assert abs(_shown(new).not_valid_after_utc - renewed) < timedelta(seconds=2)


def test_a_ca_that_has_ended_signs_once_a_minute_for_a_host(ca: InterceptionCA, clock: Clock) -> None:
    """A2: nothing is raised where bytes of a client arrive, and not every connection costs a leaf."""
    clock.now = ca.not_after.timestamp() + DAY_S
    contexts = ServerContexts(ca, HOSTS, clock=clock)
    context = contexts.context_for(HOSTS[0])
    clock.now += 59
    assert contexts.context_for(HOSTS[0]) is context


def test_the_least_recently_used_context_goes_first(ca: InterceptionCA) -> None:
    contexts = ServerContexts(ca, HOSTS[1:2], capacity=2)
    a, b, c = (f"x.{label}.apis.contoso.com" for label in "abc")
    made = contexts.context_for(a)
    contexts.context_for(b)
    assert contexts.context_for(a) is made
    contexts.context_for(c)
    assert len(contexts) == 2
    assert contexts.context_for(a) is made


def test_no_number_of_names_under_a_wildcard_outgrows_the_cache(ca: InterceptionCA) -> None:
    contexts = ServerContexts(ca, HOSTS, capacity=4)
    for number in range(12):
        contexts.context_for(f"x.host{number}.apis.contoso.com")
        assert len(contexts) <= 4


def test_siblings_below_a_wildcard_share_a_context_that_strict_clients_accept(ca: InterceptionCA) -> None:
    """A client that walks through names costs one context for each parent, not one for each name."""
    contexts = ServerContexts(ca, HOSTS)
    before = len(contexts)
    first = contexts.context_for("host0.apis.contoso.com")
    for number in range(50):
        assert contexts.context_for(f"Host{number}.apis.contoso.com.") is first
    deeper = contexts.context_for("a.b.apis.contoso.com")
    assert deeper is contexts.context_for("c.b.apis.contoso.com") is not first
    assert len(contexts) == before + 2
    for context, host in ((first, "host7.apis.contoso.com"), (deeper, "z.b.apis.contoso.com")):
        _handshake(context, _client_context(ca), host)


@pytest.mark.parametrize("host", ["a_b.apis.contoso.com", "xn--bcher-kva.apis.contoso.com"])
def test_a_name_that_verifiers_do_not_agree_about_gets_a_context_of_its_own(ca: InterceptionCA, host: str) -> None:
    contexts = ServerContexts(ca, HOSTS)
    shared = contexts.context_for("host.apis.contoso.com")
    own = contexts.context_for(host)
    assert own is not shared
    assert contexts.context_for(host) is own
    _handshake(own, _client_context(ca), host)


def test_a_host_with_a_route_of_its_own_never_shares_a_context(ca: InterceptionCA) -> None:
    contexts = ServerContexts(ca, [*HOSTS, "own.apis.contoso.com"], capacity=1)
    shared = contexts.context_for("host.apis.contoso.com")
    assert contexts.context_for("own.apis.contoso.com") is not shared


@pytest.mark.parametrize("host", ["login.microsoftonline.com", "127.0.0.2", "bad host", "*.apis.contoso.com"])
def test_a_host_outside_the_constraints_gets_no_context(ca: InterceptionCA, host: str) -> None:
    contexts = ServerContexts(ca)
    with pytest.raises(ConfigurationError):
        contexts.context_for(host)
    assert len(contexts) == 0


def test_another_ca_takes_over_for_every_host(ca: InterceptionCA) -> None:
    contexts = ServerContexts(ca, HOSTS)
    contexts.context_for("a.apis.contoso.com")
    hosts = [*HOSTS, "fabrikam.azure-api.net"]
    other = issue(hosts, datetime.now(UTC), reason="re-issued")
    contexts.use(other, hosts)
    assert len(contexts) == 0
    for host in (HOSTS[0], "a.apis.contoso.com", "fabrikam.azure-api.net"):
        _handshake(contexts.context_for(host), _client_context(other), host)


def test_no_key_stays_behind_where_a_file_is_needed(
    ca: InterceptionCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems whose kernel has no memory files."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    context = ServerContexts(ca).context_for(HOSTS[0])
    assert list(tmp_path.iterdir()) == []
    _handshake(context, _client_context(ca), HOSTS[0])


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the kernel has no memory files")
def test_no_file_is_needed_where_the_kernel_has_memory_files(
    ca: InterceptionCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a read-only file system."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    descriptors = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    context = ServerContexts(ca).context_for(HOSTS[0])
    assert set(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208 - names are enough
    _handshake(context, _client_context(ca), HOSTS[0])
