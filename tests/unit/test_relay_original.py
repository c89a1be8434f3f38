"""The kernel's word on where a redirected connection was going, in both families; and its silence."""

from __future__ import annotations

import errno
import socket

import pytest

from proxy.relay.original import has_ipv6, read_original_destination

IPV4 = bytes.fromhex("0200 01bb cb00710a 0000000000000000")
IPV6 = bytes.fromhex("0a00 0050 00000000 20010db8011300000000000000000010 00000000")


class Asked:
    """A socket that answers one question, and no other."""

    def __init__(self, level: int, answer: bytes) -> None:
        self._question = (level, 80, len(answer))
        self._answer = answer

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        if (level, option, size) != self._question:
            raise OSError(errno.ENOENT, "no such connection is tracked")
        return self._answer


@pytest.mark.parametrize(
    ("asked", "is_ipv6", "found"),
    [
        pytest.param(Asked(0, IPV4), False, ("203.0.113.10", 443), id="IPv4"),
        pytest.param(Asked(socket.IPPROTO_IPV6, IPV6), True, ("2001:db8:113::10", 80), id="IPv6"),
        pytest.param(Asked(0, IPV4), True, None, id="not tracked"),
    ],
)
def test_the_original_destination_is_what_the_kernel_says(
    asked: Asked, is_ipv6: bool, found: tuple[str, int] | None
) -> None:
    assert read_original_destination(asked, is_ipv6=is_ipv6) == found


class Named:
    """A transport with a name."""

    def __init__(self, name: object) -> None:
        self._name = name

    def get_extra_info(self, name: str) -> object:
        return self._name if name == "sockname" else None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("127.0.0.1", 8085), False),
        (("::1", 8085, 0, 0), True),
        (("::ffff:127.0.0.1", 8085, 0, 0), False),
        ("/run/proxy.sock", False),
    ],
)
def test_the_family_is_that_of_the_connection(name: object, expected: bool) -> None:
    """IPv4 through an IPv6 socket is IPv4, and the kernel is asked as for that."""
    assert has_ipv6(Named(name)) is expected  # type: ignore[arg-type]  # all that is asked of a transport
