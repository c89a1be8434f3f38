"""The addresses a configuration names: where to listen, and the origins to call. Does no I/O and resolves no name."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from proxy.errors import ConfigurationError, MalformedRequest
from proxy.policy.authority import HTTPS_PORT, Authority, parse_authority

_LISTEN_PORT = re.compile(r"[0-9]{1,5}")
_UNIX = "unix:"
# sockaddr_un's path on Linux is 108 bytes with its NUL, on BSDs 104 (unix(7)).
_SOCKET_PATH_BYTES = 103
# RFC 3986 §2: what a URI may consist of at all.
_URI = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to accept connections.

    Attributes:
        host: an IP address, IPv6 without brackets, or ``localhost``; empty for a Unix socket.
        port: 0 to 65535; 0 takes a free one.
        path: of a Unix socket, absolute; None for TCP.
    """

    host: str
    port: int
    path: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine (or this network namespace) reaches it."""
        return self.path is not None or self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    def overlaps(self, other: ListenAddress) -> bool:
        """Whether both cannot be listened on at a time, as far as can be told without trying."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        if self.port != other.port or self.port == 0:
            return False
        mine, others = self._ip(), other._ip()
        if mine.version != others.version:
            return False
        return mine == others or mine.is_unspecified or others.is_unspecified

    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host)

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen_address(text: str) -> ListenAddress:
    """Return the address that ``ip:port``, ``[ipv6]:port``, ``localhost:port`` or ``unix:/path`` stands for.

    Other names are refused: what they resolve to, and so who may connect, can change from one start to the next.

    Raises:
        ConfigurationError: for anything else.
    """
    if text.startswith(_UNIX):
        return ListenAddress("", 0, _parse_socket_path(text.removeprefix(_UNIX)))
    host, colon, port = text.rpartition(":")
    if not colon or not _LISTEN_PORT.fullmatch(port) or int(port) > 65_535:
        raise ConfigurationError("write host:port with a port from 0 to 65535, such as 127.0.0.1:8080")
    if host in ("", "*"):
        raise ConfigurationError(
            "write the address to listen on: 127.0.0.1 for this machine alone, 0.0.0.0 or [::] for all"
        )
    if host.lower() == "localhost":
        return ListenAddress("localhost", int(port))
    try:
        # The port is judged above; 0, which is no port to call, is one to listen on.
        authority = parse_authority(host.encode("utf-8", "surrogatepass"), int(port))
    except MalformedRequest as error:
        raise ConfigurationError(f"not an address to listen on. {error.detail}") from None
    if not authority.is_ip:
        raise ConfigurationError("a listener takes an IP address or localhost, no other name, such as 127.0.0.1:8080")
    return ListenAddress(authority.host, authority.port)


def _parse_socket_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ConfigurationError(
            "write unix: and the socket's absolute path, such as unix:/run/apim-auth-proxy/proxy.sock"
        )
    check_encoding(path)
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ConfigurationError(f"a Unix socket's path has at most {_SOCKET_PATH_BYTES} bytes; choose a shorter one")
    return path


def check_encoding(path: str) -> None:
    """Judge the characters of a path.

    Raises:
        ConfigurationError: this locale cannot encode one of them, as LANG=C cannot what is not ASCII.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigurationError(
            "the path has a character that this locale cannot encode; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
        ) from None


def parse_origin(text: str) -> Authority:
    """Return the authority of ``https://host[:port]``; one slash after it is allowed (RFC 9110 §4.2.3).

    Raises:
        ConfigurationError: for another scheme, userinfo, a path, a query or a fragment.
    """
    authority, rest = _split_https(text)
    if rest not in ("", "/"):
        raise ConfigurationError("write https://host or https://host:port only; leave out the path and the query")
    return authority


def parse_https_url(text: str) -> Authority:
    """Return the authority of an ``https`` URL that may have a path and a query.

    Raises:
        ConfigurationError: for another scheme, userinfo, or a fragment (RFC 6749 §3.2).
    """
    authority, rest = _split_https(text)
    if "#" in rest:
        raise ConfigurationError("a token endpoint has no fragment (RFC 6749 §3.2); leave out the '#' and what follows")
    return authority


def _split_https(text: str) -> tuple[Authority, str]:
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ConfigurationError("write a whole URL that begins with https://")
    if scheme.lower() != "https":
        raise ConfigurationError("only https:// is allowed, because what is sent there proves who the proxy is")
    if not _URI.fullmatch(rest):
        raise ConfigurationError("a URL has a host, and no spaces or characters outside ASCII; percent-encode them")
    end = min((index for index in map(rest.find, "/?#") if index >= 0), default=len(rest))
    try:
        return parse_authority(rest[:end].encode("ascii"), HTTPS_PORT), rest[end:]
    except MalformedRequest as error:
        raise ConfigurationError(f"the URL's host cannot be used. {error.detail}") from None
