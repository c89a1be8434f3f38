"""The one canonical form of `host:port`, which every comparison, connection and log line uses. Does no I/O.

Two spellings of one destination give equal values; a spelling that programs read in different ways is refused, so that
the name which chose the credential and the name which is dialled cannot differ.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from proxy.errors import MalformedRequest

HTTPS_PORT = 443

# Enough for the longest DNS name written in four-byte UTF-8; bounds the work of IDNA processing, which is not linear.
_INPUT_LIMIT_BYTES = 1_024
# RFC 1035 §2.3.4, less the length octet and the root label, which the text form does not write.
_NAME_LIMIT = 253
_LABEL_LIMIT = 63
# As many authorities as a busy proxy sees again and again; an attacker who fills it costs us only the parsing.
_CACHE_ENTRIES = 1_024

# RFC 1123 §2.1, and the underscore, which RFC 2181 §11 leaves to applications and real names have.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
# What inet_aton, and so getaddrinfo and many resolvers, takes for the last part of an IPv4 address (WHATWG URL §3.5).
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_PORT = re.compile(rb"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Authority:
    """A host and a port (RFC 9110 §4.3.1), in canonical form when it comes from `parse_authority`.

    Attributes:
        host: a lower-case DNS name of A-labels without a trailing dot, or the text of an IP address: IPv6 compressed
            (RFC 5952) and without brackets, IPv4-mapped IPv6 as IPv4.
        port: 1 to 65535.
    """

    host: str
    port: int

    @property
    def is_ip(self) -> bool:
        """Whether the host is an address and not a name."""
        return ":" in self.host or self.host.rpartition(".")[2].isdigit()

    def host_field(self, default_port: int) -> bytes:
        """Return the value of a Host field, without the port where it is the scheme's default (RFC 9110 §7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == default_port else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(maxsize=_CACHE_ENTRIES)
def parse_authority(raw: bytes, default_port: int | None) -> Authority:
    """Return the canonical form of an authority as a request or a configuration writes it.

    Stricter than RFC 3986 §3.2: no userinfo (RFC 9110 §4.2.4), no percent-encoding, no empty port or one with leading
    zeros, no zone id, no IPv4 address in any form but four decimal numbers, none with a trailing dot.

    Args:
        raw: the bytes as received; an internationalised name stands in UTF-8 or in A-labels.
        default_port: the port where none is written; None where one has to be (CONNECT, RFC 9112 §3.2.3).

    Raises:
        MalformedRequest: for every other sequence of bytes; the detail does not repeat them.
    """
    if len(raw) > _INPUT_LIMIT_BYTES:
        raise MalformedRequest("The authority is too long: a DNS name has at most 253 characters.")
    if b"@" in raw:
        raise MalformedRequest("The authority holds user information; leave out what stands before the '@'.")
    if raw[:1] == b"[":
        address, bracket, rest = raw[1:].partition(b"]")
        if not bracket or rest[:1] not in (b"", b":"):
            raise MalformedRequest(
                "The IPv6 address in the authority is not closed by ']', or more than a port follows it."
            )
        return Authority(_parse_ipv6(address), _parse_port(rest[1:] if rest else None, default_port))
    host, colon, port = raw.partition(b":")
    if b":" in port:
        raise MalformedRequest("The authority holds several colons; write an IPv6 address in brackets: [::1]:443.")
    return Authority(_parse_host(host), _parse_port(port if colon else None, default_port))


def _parse_port(raw: bytes | None, default_port: int | None) -> int:
    if raw is None:
        if default_port is None:
            raise MalformedRequest("The authority has no port; write host:port.")
        return default_port
    if not _PORT.fullmatch(raw) or int(raw) > 65_535:
        raise MalformedRequest("The port of the authority is not a decimal number from 1 to 65535.")
    return int(raw)


def _parse_ipv6(raw: bytes) -> str:
    if b"%" in raw:
        raise MalformedRequest("The IPv6 address has a zone id, which means nothing outside one machine (RFC 6874).")
    try:
        address = ipaddress.IPv6Address(raw.decode("ascii"))
    except ValueError:
        raise MalformedRequest("What stands in the authority's brackets is not an IPv6 address.") from None
    return str(address.ipv4_mapped or address)


def _parse_host(raw: bytes) -> str:
    if not raw:
        raise MalformedRequest("The authority has no host.")
    if b"%" in raw:
        raise MalformedRequest("The host is percent-encoded; write a DNS name as it is.")
    host = raw.decode("ascii").lower() if raw.isascii() else _to_a_labels(raw)
    name = host.removesuffix(".")
    last_label = name.rpartition(".")[2]
    if _NUMBER.fullmatch(last_label):
        return _parse_ipv4(host)
    if len(name) > _NAME_LIMIT:
        raise MalformedRequest("The host is too long: a DNS name has at most 253 characters.")
    for label in name.split("."):
        if len(label) > _LABEL_LIMIT:
            raise MalformedRequest("The host has a label of more than 63 characters.")
        if not _LABEL.fullmatch(label):
            raise MalformedRequest(
                "The host is not a DNS name: labels of letters, digits, hyphens and underscores, joined by single dots."
            )
    return name


def _parse_ipv4(host: str) -> str:
    # The standard library refuses leading zeros, which inet_aton reads as octal.
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise MalformedRequest(
            "The host ends in a number but is not an IPv4 address of four decimal numbers; programs read other forms "
            "(octal, hexadecimal, fewer parts) as different addresses."
        ) from None


def _to_a_labels(raw: bytes) -> str:
    import idna  # noqa: PLC0415 - 40 ms to import, and hardly a client sends U-labels

    try:
        # UTS #46 as browsers apply it; the labels apart, because idna.encode() refuses underscores in all of them.
        mapped = idna.uts46_remap(raw.decode("utf-8"), std3_rules=False, transitional=False)
        labels = [label if label.isascii() else idna.alabel(label).decode("ascii") for label in mapped.split(".")]
    except UnicodeError:  # of which IDNAError is one
        raise MalformedRequest(
            "The host is not an internationalised domain name in UTF-8 (RFC 5891, UTS #46)."
        ) from None
    return ".".join(labels).lower()
