"""The interception CA is replaced while requests run: none of them fails, and clients find out in their own time."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from proxy.interception.store import drop, rotate, trusted_pem
from tests.end_to_end.programs import COMMAND, PATIENCE_S, configuration, run_program
from tests.end_to_end.test_reload import Load, rewrite

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place, ProxyProgram

NOT_TRUSTED = 60  # curl's exit status for a certificate that it does not accept


def keep_trusted(proxy: ProxyProgram, file: Path) -> Path:
    """Keeps what a client would be given at this moment: what `ca export` prints, too."""
    file.write_bytes(trusted_pem(proxy.ca_file.parent))
    return file


def cut_over(proxy: ProxyProgram) -> str:
    """Cuts over by the command, and returns the state that it reports."""
    done = run_program([COMMAND, "ca", "rotate", "--config", proxy.config_file, "--json", "--cut-over", "--now"])
    assert done.status == 0, done.stderr
    return str(json.loads(done.stdout)["state"])


class Asking:
    """Requests through a tunnel, by clients that trust one file each."""

    def __init__(self, curl: Curl, proxy: ProxyProgram) -> None:
        self._curl, self._proxy = curl, proxy

    def __call__(self, authority: str, trusted: Path) -> int:
        """Returns curl's exit status; a response that is not 200 is a failure of the test."""
        answer = self._curl("--proxy", self._proxy.forward, "--cacert", str(trusted), f"https://{authority}/orders")
        assert answer.status in (0, 200)
        return answer.exit_status

    def wait_for(self, expected: int, authority: str, trusted: Path) -> None:
        """Waits until a client that trusts the file fares so."""
        give_up_at = time.monotonic() + PATIENCE_S
        while self(authority, trusted) != expected:
            assert time.monotonic() < give_up_at
            time.sleep(0.2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rotation_with_overlap_fails_no_request(
    place: Place, tmp_path: Path, start_proxy: StartProxy, curl: Curl, workers: int
) -> None:
    proxy = start_proxy(configuration(place, workers=workers))
    ask, host = Asking(curl, proxy), place.alias_host
    old = keep_trusted(proxy, tmp_path / "old.pem")
    rotate(proxy.ca_file.parent, [host, "localhost"], datetime.now(UTC))
    both = keep_trusted(proxy, tmp_path / "both.pem")
    assert [ask(host, old), ask(host, both)] == [0, 0], "before the cut-over the old one signs"
    with Load(proxy, place).running() as load:  # its clients trust ca.pem as it is now: both
        load.wait_for(40)
        assert cut_over(proxy) == "taken over"
        ask.wait_for(NOT_TRUSTED, host, old)
        load.wait_for(40)
        drop(proxy.ca_file.parent)
        load.wait_for(20)
    assert set(load.outcomes) == {"200"}, load.outcomes
    new = keep_trusted(proxy, tmp_path / "new.pem")
    ask.wait_for(0, host, new)  # of several processes, each in its own time
    assert ask(host, both) == 0, "after the cut-over the new one signs"
    assert new.read_bytes() in both.read_bytes()
    proxy.wait_for_line("the interception CA has changed")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_route_that_is_added_asks_nothing_of_clients_of_the_others(
    place: Place, tmp_path: Path, start_proxy: StartProxy, curl: Curl, workers: int
) -> None:
    listeners = [{"address": "127.0.0.1:0"}]
    usual = configuration(place, route={"hosts": [place.alias_host]}, listeners=listeners, workers=workers)
    proxy = start_proxy(usual)
    ask = Asking(curl, proxy)
    before = keep_trusted(proxy, tmp_path / "before.pem")
    more = configuration(place, route={"hosts": [place.alias_host, place.api_authority]}, listeners=listeners)
    rewrite(proxy, usual | {"routes": more["routes"]})
    after = keep_trusted(proxy, tmp_path / "after.pem")
    ask.wait_for(0, place.api_authority, after)
    assert [ask(place.alias_host, before), ask(place.alias_host, after)] == [0, 0]
    ask.wait_for(NOT_TRUSTED, place.api_authority, before)  # of several processes, each in its own time


def test_a_damaged_ca_is_not_taken_up_and_said_so(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    proxy = start_proxy(configuration(place))
    trusted = proxy.ca_file.with_name("kept.pem")
    trusted.write_bytes(proxy.ca_file.read_bytes())
    key = proxy.ca_file.with_name("ca.key")
    whole = key.read_bytes()
    key.write_bytes(whole[:100])
    proxy.wait_for_line("the interception CA has changed and cannot be used")
    assert Asking(curl, proxy)(place.alias_host, trusted) == 0
    key.write_bytes(whole)
