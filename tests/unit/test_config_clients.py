"""Who may connect: what `clients`, `tls`, `socket_mode` and `users` may say, and what makes a listener safe to open."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.policy.passwords import PasswordHash

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.settings import Settings

HASH = str(PasswordHash(14, 8, 5, b"0123456789abcdef", b"k" * 32))
REST = """\
credentials:
  orders:
    tenant_id: 11111111-1111-1111-1111-111111111111
    client_id: 22222222-2222-2222-2222-222222222222
    certificate: clientapp.pem
routes:
  - hosts: [api.contoso.com, "*.apis.contoso.com"]
    credential: orders
    scope: api://orders/.default
"""
LOOPBACK = "listeners: [{address: '127.0.0.1:8080'}]\n"
OPEN = "listeners: [{address: '0.0.0.0:8080'}]\n"
UNIX = "listeners: [{address: 'unix:/run/proxy.sock'}]\n"
MTLS = "listeners: [{address: '0.0.0.0:8443', tls: {certificate: proxy.pem, client_ca: ca.pem}}]\n"


def load(directory: Path, text: str) -> Settings:
    file = directory / "config.yaml"
    file.write_text(text + REST, encoding="utf-8")
    return load_settings(file, {"HOME": "/home/u"}, check_files=False)


def clients(*entries: str) -> str:
    return f"clients: [{', '.join(entries)}]\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(OPEN + clients("{name: a, networks: [10.0.0.0/8]}"), id="by address"),
        pytest.param(OPEN + clients(f"{{name: a, password_hash: '{HASH}'}}"), id="by password"),
        pytest.param(MTLS, id="by any certificate of a CA"),
        pytest.param(MTLS + clients("{name: a, certificate_names: [a.contoso.com]}"), id="by a certificate"),
        pytest.param(OPEN + "allow_any_client: true\n", id="everyone, in so many words"),
        pytest.param(UNIX, id="by the socket's mode"),
        pytest.param(
            "listeners: [{address: 'unix:/run/p.sock', socket_mode: '0660', users: [orders, '1001']}]\n",
            id="by Unix user",
            marks=pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="Linux only"),
        ),
        pytest.param(
            LOOPBACK
            + clients(
                "{name: a, networks: [::1/128], routes: ['*.apis.contoso.com']}".replace("::1", "'::1").replace(
                    "128", "128'"
                )
            ),
            id="limited to a route",
        ),
        pytest.param(
            LOOPBACK
            + clients("{name: a, networks: [10.0.0.0/8], requests_per_s: 0.5, burst: 3, concurrent_exchanges: 2}"),
            id="limited in number",
        ),
    ],
)
def test_the_ways_to_say_who_may_connect(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        pytest.param(OPEN, "listeners[0].address", "list the allowed clients in clients", id="open to all"),
        pytest.param(
            OPEN.replace("}", ", tls: {certificate: proxy.pem}}"),
            "listeners[0].address",
            "client_ca",
            id="TLS alone keeps nobody out",
        ),
        pytest.param(
            OPEN + "clients: []\n", "listeners[0].address", "list the allowed clients in clients", id="no clients"
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, networks: [10.0.0.0/8]}") + "admin: {address: '0.0.0.0:9901'}\n",
            "admin.address",
            "Listen on 127.0.0.1",
            id="the admin site does not know clients",
        ),
        pytest.param(
            LOOPBACK + clients("{name: a}"),
            "clients[0]",
            "how does the proxy recognise this client",
            id="known by nothing",
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, networks: [10.0.0.0/8]}") + "allow_any_client: true\n",
            "allow_any_client",
            "remove one",
            id="all and some",
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, networks: [10.0.0.0/8]}", "{name: a, networks: [10.0.0.0/8]}"),
            "clients[1].name",
            "its own",
            id="one name twice",
        ),
        pytest.param(
            LOOPBACK + clients("{name: 'a b', networks: [10.0.0.0/8]}"), "clients[0].name", "letters", id="a name"
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, networks: [10.0.0.1/8]}"), "clients[0].networks[0]", "range", id="a range"
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, password_hash: hunter2}"),
            "clients[0].password_hash",
            "client add",
            id="a password",
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, certificate_names: [b]}"),
            "clients[0].certificate_names",
            "client_ca",
            id="no client_ca",
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, users: [b]}"), "clients[0].users", "Unix socket", id="no Unix socket"
        ),
        pytest.param(
            UNIX + clients("{name: a, users: [b], networks: [10.0.0.0/8]}"),
            "clients[0].users",
            "two clients",
            id="users elsewhere",
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, networks: [10.0.0.0/8], burst: 3}"),
            "clients[0].burst",
            "requests_per_s",
            id="burst of what",
        ),
        pytest.param(
            LOOPBACK + clients("{name: a, networks: [10.0.0.0/8], routes: [api.contoso.org]}"),
            "clients[0].routes[0]",
            "no route has this host",
            id="no such route",
        ),
        pytest.param(
            LOOPBACK.replace("}", ", socket_mode: '0600'}"),
            "listeners[0].socket_mode",
            "only a Unix socket",
            id="mode of a port",
        ),
        pytest.param(
            LOOPBACK.replace("}", ", users: [a]}"), "listeners[0].users", "only a Unix socket", id="users of a port"
        ),
        pytest.param(
            UNIX.replace("}", ", tls: {certificate: a.pem}}"), "listeners[0].tls", "no TLS", id="TLS on a Unix socket"
        ),
        pytest.param(
            UNIX.replace("}", ", socket_mode: 600}"), "listeners[0].socket_mode", "text", id="a mode without quotes"
        ),
        pytest.param(
            UNIX.replace("}", ", socket_mode: 'rw'}"), "listeners[0].socket_mode", "octal", id="a mode in letters"
        ),
        pytest.param(
            "listeners: [{address: 'unix:run/proxy.sock'}]\n",
            "listeners[0].address",
            "absolute",
            id="a relative socket",
        ),
        pytest.param(
            f"listeners: [{{address: 'unix:/{'x' * 120}'}}]\n",
            "listeners[0].address",
            "shorter",
            id="a socket's long path",
        ),
        pytest.param(
            "listeners: [{address: 'unix:/a'}, {address: 'unix:/a'}]\n",
            "listeners[1].address",
            "another path",
            id="one socket twice",
        ),
        pytest.param(
            LOOPBACK + "admin: {address: 'unix:/a'}\n", "admin.address", "TCP", id="the admin site on a socket"
        ),
    ],
)
def test_what_is_refused_and_the_way_out(tmp_path: Path, text: str, path: str, words: str) -> None:
    with pytest.raises(ConfigurationFaults) as raised:
        load(tmp_path, text)
    (fault,) = raised.value.faults
    assert fault.path == path
    assert words in fault.message
    assert "hunter2" not in str(raised.value)


def test_a_password_hash_is_not_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, LOOPBACK + clients(f"{{name: a, password_hash: '{HASH}'}}"))
    assert HASH not in repr(settings)


def test_files_of_a_listener_have_to_be_there(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(MTLS + REST, encoding="utf-8")
    (tmp_path / "clientapp.pem").touch(mode=0o600)
    with pytest.raises(ConfigurationFaults) as raised:
        load_settings(file, {"HOME": "/home/u"})
    assert [fault.path for fault in raised.value.faults] == [
        "listeners[0].tls.certificate",
        "listeners[0].tls.client_ca",
    ]
