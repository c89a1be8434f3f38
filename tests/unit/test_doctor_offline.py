"""What the doctor says of credentials, routes, CA and addresses without asking anyone."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from proxy.config.loading import load_settings
from proxy.doctor.ca import check_ca
from proxy.doctor.credentials import check_credential
from proxy.doctor.findings import Level
from proxy.doctor.listeners import check_listeners
from proxy.doctor.routes import check_routes
from proxy.identity.certificate_creation import create_certificate
from proxy.interception.store import load_or_create

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.config.settings import Settings
    from proxy.doctor.findings import Finding

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    """Valid for a hundred days from NOW."""
    return create_certificate("clientapp", 100, 2048, NOW)


def load(directory: Path, **changes: object) -> Settings:
    settings: dict[str, object] = {
        "listeners": [{"address": "127.0.0.1:0"}],
        "credentials": {"a": {"tenant_id": "contoso.example", "client_id": "c", "certificate": "c.pem"}},
        "routes": [{"hosts": ["a.example"], "credential": "a", "scope": "api://a/.default"}],
        "admin": None,
        "state_directory": "state",
    }
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(settings | changes), encoding="utf-8")
    return load_settings(path, {}, check_files=False)


def credential(directory: Path, now: datetime, **keys: object) -> list[Finding]:
    settings = load(directory, credentials={"a": {"tenant_id": "contoso.example", "client_id": "c", **keys}})
    return list(check_credential("a", settings.credentials["a"], now))


def unlike_ok(findings: Iterable[Finding]) -> list[tuple[Level, str]]:
    return [
        (finding.level, f"{finding.message} {finding.advice}") for finding in findings if finding.level is not Level.OK
    ]


def write_pair(directory: Path, pair: tuple[bytes, bytes], name: str = "c.pem", mode: int = 0o600) -> None:
    (directory / name).write_bytes(b"".join(pair))
    (directory / name).chmod(mode)


# Credentials


@pytest.mark.parametrize(
    ("days_before_the_end", "threshold"),
    [(99, None), (31, None), (30, 30), (15, 30), (14, 14), (7, 7), (2, 7), (1, 1), (0, 1)],
)
def test_a_certificate_is_warned_of_at_30_14_7_and_1_days(
    tmp_path: Path, pair: tuple[bytes, bytes], days_before_the_end: int, threshold: int | None
) -> None:
    write_pair(tmp_path, pair)
    findings = credential(tmp_path, NOW + (100 - days_before_the_end) * DAY - timedelta(minutes=1), certificate="c.pem")
    (expiry,) = [finding for finding in findings if "days_left" in finding.facts]
    assert expiry.facts.get("threshold") == threshold
    assert expiry.facts["days_left"] == days_before_the_end
    assert expiry.level is (Level.OK if threshold is None else Level.WARNING)


def test_an_expired_certificate_is_an_error_unless_another_one_serves(
    tmp_path: Path, pair: tuple[bytes, bytes]
) -> None:
    write_pair(tmp_path, pair)
    write_pair(tmp_path, create_certificate("new", 100, 2048, NOW + 50 * DAY), "new.pem")
    later = NOW + 101 * DAY
    assert [level for level, _ in unlike_ok(credential(tmp_path, later, certificate="c.pem"))] == [Level.ERROR]
    both = [{"certificate": "c.pem"}, {"certificate": "new.pem"}]
    ((level, sentence),) = unlike_ok(credential(tmp_path, later, certificates=both))
    assert level is Level.WARNING
    assert "left out" in sentence


def test_a_signers_certificate_needs_no_key_here(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    (tmp_path / "c.crt").write_bytes(pair[0])
    findings = credential(tmp_path, NOW, certificate="c.crt", signer_command=["true"])
    assert unlike_ok(findings) == []
    assert any("sha1" in finding.facts for finding in findings)


def test_a_client_secret_is_a_warning_that_does_not_show_it(tmp_path: Path) -> None:
    ((level, sentence),) = unlike_ok(credential(tmp_path, NOW, client_secret="hunter2"))
    assert level is Level.WARNING
    assert "cert new" in sentence
    assert "hunter2" not in sentence


def test_a_ca_file_that_holds_nothing_is_an_error(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    write_pair(tmp_path, pair)
    (tmp_path / "ca.pem").write_bytes(b"nothing")
    ((level, sentence),) = unlike_ok(credential(tmp_path, NOW, certificate="c.pem", ca_file="ca.pem"))
    assert level is Level.ERROR
    assert str(tmp_path / "ca.pem") in sentence


# Routes


def test_a_credential_that_no_route_uses_is_a_warning(tmp_path: Path) -> None:
    entry = {"tenant_id": "contoso.example", "client_id": "c", "certificate": "c.pem"}
    settings = load(tmp_path, credentials={"a": entry, "b": entry})
    (finding,) = [finding for finding in check_routes(settings, NOW) if finding.level is not Level.OK]
    assert (finding.level, finding.subject) == (Level.WARNING, "credential b")


def test_ranges_that_nothing_uses_are_a_warning(tmp_path: Path) -> None:
    settings = load(tmp_path, destinations={"allow": ["10.0.0.0/8"]})
    assert unlike_ok(check_routes(settings, NOW))[0][0] is Level.WARNING
    assert (
        unlike_ok(check_routes(load(tmp_path, destinations={"allow": ["10.0.0.0/8"]}, other_hosts="tunnel"), NOW)) == []
    )


# The interception CA


def test_no_ca_yet_is_right_where_one_can_be_made(tmp_path: Path) -> None:
    (finding,) = check_ca(tmp_path / "below" / "state", ["a.example"], NOW)
    assert finding.level is Level.OK
    assert not (tmp_path / "below").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    (finding,) = check_ca(tmp_path / "file" / "state", ["a.example"], NOW)
    assert finding.level is Level.ERROR


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux' /proc, where not even root can make anything")
def test_a_place_where_nobody_can_make_a_directory_is_an_error() -> None:
    (finding,) = check_ca(Path("/proc/state"), ["a.example"], NOW)
    assert (finding.level, "/proc is not a directory it can write to" in finding.message) == (Level.ERROR, True)


@pytest.mark.parametrize(
    ("hosts", "days", "level", "said"),
    [
        (["a.example"], 0, Level.OK, "may sign for the routed hosts"),
        (["a.example", "b.example"], 0, Level.WARNING, "b.example"),
        (["a.example"], 669, Level.OK, "61 days"),
        (["a.example"], 670, Level.WARNING, "ca rotate"),
        (["a.example"], 725, Level.WARNING, "another one takes over when the proxy starts"),
    ],
)
def test_a_ca_that_will_be_replaced_is_a_warning(
    tmp_path: Path, hosts: list[str], days: int, level: Level, said: str
) -> None:
    load_or_create(tmp_path / "state", ["a.example"], NOW)
    first, second = check_ca(tmp_path / "state", hosts, NOW + days * DAY)
    assert "fingerprint" in first.facts
    assert second.level is level
    assert said in f"{second.message} {second.advice}"


def test_a_rotation_under_way_is_told_with_the_next_step(tmp_path: Path) -> None:
    load_or_create(tmp_path / "state", ["a.example"], NOW)
    load_or_create(tmp_path / "state", ["a.example", "b.example"], NOW)
    _, finding = check_ca(tmp_path / "state", ["a.example", "b.example"], NOW)
    assert finding.level is Level.WARNING
    assert "It signs for b.example already" in finding.message
    assert "ca rotate --cut-over" in (finding.advice or "")


def test_a_damaged_ca_is_an_error(tmp_path: Path) -> None:
    load_or_create(tmp_path / "state", ["a.example"], NOW)
    (tmp_path / "state" / "ca.key").write_bytes(b"nothing")
    (finding,) = check_ca(tmp_path / "state", ["a.example"], NOW)
    assert finding.level is Level.ERROR


# Addresses


def test_a_free_address_is_right_and_a_taken_one_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        taken.listen()
        settings = load(tmp_path, listeners=[{"address": address}])
        ((level, sentence),) = unlike_ok(check_listeners(settings, NOW))
        assert level is Level.ERROR
        assert "Another program listens there" in sentence
    assert unlike_ok(check_listeners(settings, NOW)) == []


def test_an_address_of_another_machine_is_an_error(tmp_path: Path) -> None:
    # RFC 5737 §3: an address that no machine has.
    settings = load(tmp_path, listeners=[{"address": "192.0.2.1:8080"}], allow_any_client=True)
    assert (
        Level.ERROR,
        "It cannot be opened: this machine does not have that address. Change the listener's address.",
    ) in (unlike_ok(check_listeners(settings, NOW)))


def test_an_address_that_others_reach_is_a_warning(tmp_path: Path) -> None:
    settings = load(tmp_path, listeners=[{"address": "0.0.0.0:0"}], allow_any_client=True)
    ((level, sentence),) = unlike_ok(check_listeners(settings, NOW))
    assert level is Level.WARNING
    assert "uses the proxy's identity" in sentence


def test_clients_told_apart_need_no_warning(tmp_path: Path) -> None:
    settings = load(
        tmp_path, listeners=[{"address": "0.0.0.0:0"}], clients=[{"name": "batch", "networks": ["10.0.0.0/8"]}]
    )
    assert unlike_ok(check_listeners(settings, NOW)) == []


@pytest.mark.parametrize(
    ("path", "level"), [("proxy.sock", Level.OK), ("none/proxy.sock", Level.ERROR), ("config.yaml", Level.ERROR)]
)
def test_a_unix_socket_needs_a_place(tmp_path: Path, path: str, level: Level) -> None:
    settings = load(tmp_path, listeners=[{"address": f"unix:{tmp_path / path}"}])
    (finding,) = check_listeners(settings, NOW)
    assert finding.level is level


def test_a_listeners_own_certificate_is_judged(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    write_pair(tmp_path, pair)
    settings = load(tmp_path, listeners=[{"address": "127.0.0.1:0", "tls": {"certificate": "c.pem"}}])
    assert unlike_ok(check_listeners(settings, NOW)) == []
    assert [level for level, _ in unlike_ok(check_listeners(settings, NOW + 95 * DAY))] == [Level.WARNING]
    assert [level for level, _ in unlike_ok(check_listeners(settings, NOW + 101 * DAY))] == [Level.ERROR]
    (tmp_path / "c.pem").write_bytes(pair[0])
    ((level, sentence),) = unlike_ok(check_listeners(settings, NOW))
    assert level is Level.ERROR
    assert str(tmp_path / "c.pem") in sentence


def test_a_tls_listener_of_this_program_is_known_by_its_certificate(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    write_pair(tmp_path, pair)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        def serve() -> None:
            accepted, _ = listening.accept()
            with contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True) as secured:
                secured.recv(1)

        server = threading.Thread(target=serve)
        server.start()
        settings = load(tmp_path, listeners=[{"address": address, "tls": {"certificate": "c.pem"}}])
        findings = list(check_listeners(settings, NOW))
        server.join(60)
    assert findings[0].message == "An apim-auth-proxy is serving there now."
