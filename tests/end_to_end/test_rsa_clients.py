"""Clients that take RSA signatures only are served like the others, with one process and with several (C8)."""

from __future__ import annotations

import re
from shutil import which
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import Place, configuration, run_program

if TYPE_CHECKING:
    from tests.end_to_end.conftest import StartProxy


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("workers", [1, 2])
def test_clients_that_take_rsa_only_are_shown_an_rsa_certificate_and_others_are_not(
    place: Place, start_proxy: StartProxy, workers: int
) -> None:
    """C8: the key and the certificate are made when the first of them comes, who notices nothing but a moment's wait."""
    proxy = start_proxy(configuration(place) | {"workers": workers})

    def connect(*options: str) -> str:
        done = run_program(
            [
                *("openssl", "s_client", "-proxy", proxy.address("forward"), "-connect", place.api_authority),
                *("-servername", "localhost", "-CAfile", str(proxy.ca_file), "-verify_return_error", *options),
            ]
        )
        assert done.status == 0, (done.stdout, done.stderr)
        (kind,) = re.findall(r"Peer signature type: (\S+)", done.stdout.decode())
        return str(kind)

    for _ in range(2):
        assert connect() == "ECDSA"
        assert connect("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256") in ("RSA", "RSA-PSS")
        assert connect("-tls1_2", "-sigalgs", "RSA+SHA256") == "RSA"
        assert connect("-tls1_3", "-sigalgs", "RSA-PSS+SHA256") == "RSA-PSS"
