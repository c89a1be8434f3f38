"""Several relay processes: one token request for all, none of them ever near a key, and another when one dies."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.end_to_end.programs import (
    COMMAND,
    PATIENCE_S,
    Place,
    configuration,
    environment,
    run_program,
    write_configuration,
)
from tests.end_to_end.test_start_and_stop import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import ProxyProgram

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at processes through Linux' /proc")


@pytest.fixture
def several(place: Place, start_proxy: StartProxy) -> ProxyProgram:
    """A proxy of two relay processes."""
    return start_proxy(configuration(place) | {"workers": 2})


def children(pid: int) -> list[int]:
    """Returns the process ids of a process' children."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> bytes:
    """Returns what a process was started with; nothing for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def opened_files(pid: int) -> list[str]:
    """Returns the names behind a process' descriptors, of which some may be closed meanwhile."""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(entry.readlink()))
    return names


def relay_processes(proxy: ProxyProgram) -> list[int]:
    """Returns the process ids of the relay processes."""
    return [pid for template in templates(proxy) for pid in children(template)]


def templates(proxy: ProxyProgram) -> list[int]:
    """Returns the process id of what the relay processes are forked from."""
    return [pid for pid in children(proxy.process.pid) if b"proxy.workers.template" in command_line(pid)]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Waits for something another process does."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.05)


def memory_holds(pid: int, needles: list[bytes]) -> bool:
    """Returns whether any of some byte strings is anywhere in a process' readable memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if found is None or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = int(found[1], 16), int(found[2], 16)
            try:
                content = os.pread(memory.fileno(), end - start, start)
            except OSError:
                continue
            if any(needle in content for needle in needles):
                return True
    return False


def test_all_relay_processes_serve_with_one_token_request(several: ProxyProgram, place: Place, curl: Curl) -> None:
    """Sixty new connections reach both processes; the metrics, summed, count every one of them."""
    for _ in range(60):
        assert curl("--proxy", several.forward, f"http://{place.api_url.removeprefix('https://')}/orders").status == 200

    def served() -> list[int]:
        text = several.ask_admin("/metrics").decode()
        return [int(float(n)) for n in re.findall(r'exchanges_total\{.*status_class="2xx"\} (\S+)', text)]

    wait_until(lambda: sum(served()) == 60, f"60 exchanges were made, the metrics say {served()}")
    requests = re.findall(r'token_requests_total\{.*outcome="ok"\} (\S+)', several.ask_admin("/metrics").decode())
    assert [float(count) for count in requests] == [1.0]


def test_the_page_tells_of_all_relay_processes_who_used_what_and_whose_fault_it_was(
    several: ProxyProgram, place: Place, curl: Curl
) -> None:
    through = ("--proxy", several.forward)
    for path in ("/orders", "/orders", "/status/503"):
        curl(*through, f"http://{place.api_authority}{path}")
    curl(*through, "http://unknown.example/")

    def tells_all() -> bool:
        state = json.loads(several.ask_admin("/api/state"))
        recent = {route["name"]: route["recent"] for route in state["routes"]}
        routed, other = recent[place.api_authority], recent.get("-", {"count": 0})
        (client,) = state["clients"] or [{"count": 0}]
        if (routed["count"], other["count"], client["count"]) != (3, 1, 4) or not (
            routed["failures"] and other["failures"]
        ):
            return False
        assert routed["failures"] == {"api": 1}
        assert routed["statuses"] == {"503": 1}
        assert routed["p50_ms"] > 0
        assert other["failures"] == {"client": 1}
        assert client["identities"] == {"orders-client": 3}
        assert not client["configured"]
        return True

    wait_until(tells_all, "the page never told of all that happened")


def test_no_relay_process_ever_has_a_private_key(several: ProxyProgram, place: Place, curl: Curl) -> None:
    """Neither the file nor, in any form OpenSSL or Python keeps it, the key: its primes are searched for in all memory."""
    host = place.api_url.removeprefix("https://")
    assert curl("--proxy", several.forward, "--cacert", str(several.ca_file), f"https://{host}/orders").status == 200
    key = load_pem_private_key(Path(place.certificate).read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    numbers = key.private_numbers()
    size = (numbers.p.bit_length() + 7) // 8
    needles = [prime.to_bytes(size, order) for prime in (numbers.p, numbers.q) for order in ("little", "big")]
    pids = relay_processes(several)
    assert len(pids) == 2
    assert memory_holds(several.process.pid, needles), "the search finds the key where it is: in the control process"
    for pid in [*templates(several), *pids]:
        assert not memory_holds(pid, needles)
        opened = opened_files(pid)
        assert opened
        assert not [name for name in opened if name.endswith((".pem", ".key"))]


def test_a_dead_relay_process_is_replaced_and_the_other_goes_on(
    several: ProxyProgram, place: Place, curl: Curl
) -> None:
    host = place.api_url.removeprefix("https://")
    before = relay_processes(several)
    os.kill(before[0], signal.SIGKILL)
    wait_until(
        lambda: len(set(relay_processes(several)) - {before[0]}) == 2,
        "no other relay process took the place of the dead one",
    )
    assert before[1] in relay_processes(several)
    several.wait_for_line("was ended by SIGKILL; another takes its place")
    wait_until(
        lambda: all(curl("--proxy", several.forward, f"http://{host}/orders").status == 200 for _ in range(4)),
        "requests failed after the replacement",
    )


def test_relay_processes_outlive_what_they_were_forked_from(several: ProxyProgram, place: Place, curl: Curl) -> None:
    """They go on serving, and one that dies later is noticed by its channel and replaced from a new template."""
    host = place.api_url.removeprefix("https://")
    before = relay_processes(several)
    (template,) = templates(several)
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: template not in children(several.process.pid), "the template was not reaped")
    for _ in range(4):
        assert curl("--proxy", several.forward, f"http://{host}/orders").status == 200
    assert all(Path(f"/proc/{pid}").exists() for pid in before)
    os.kill(before[0], signal.SIGKILL)
    several.wait_for_line("ended; another takes its place")
    wait_until(lambda: len(relay_processes(several)) == 1, "no other relay process took the place of the dead one")
    wait_until(
        lambda: all(curl("--proxy", several.forward, f"http://{host}/orders").status == 200 for _ in range(4)),
        "requests failed after the replacement",
    )
    assert several.stop() == 0
    wait_until(lambda: not Path(f"/proc/{before[1]}").exists(), "a relay process outlived the proxy")


def stop_next_template(proxy: ProxyProgram) -> int:
    """Ends a relay process and what it was forked from, and stops the next template before it forks; returns its process id."""
    (template,) = templates(proxy)
    worker = relay_processes(proxy)[0]
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: template not in children(proxy.process.pid), "the template was not reaped")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: bool(templates(proxy)), "no other template was started")
    (stopped,) = templates(proxy)
    os.kill(stopped, signal.SIGSTOP)
    return stopped


def test_a_drain_waits_for_no_relay_process_that_is_not_there_yet(several: ProxyProgram) -> None:
    """A fork is asked for, and the template is stopped: the proxy ends all the same, with status 0, and leaves nothing."""
    (other,) = relay_processes(several)[1:]
    stopped = stop_next_template(several)
    several.signal(signal.SIGTERM)
    assert several.wait() == 0
    assert not [pid for pid in (stopped, other) if Path(f"/proc/{pid}").exists()]


def test_a_template_that_dies_before_it_forks_is_named_and_replaced(several: ProxyProgram) -> None:
    os.kill(stop_next_template(several), signal.SIGKILL)
    several.wait_for_line("could not be started: the process that they are forked from has ended")
    wait_until(lambda: len(relay_processes(several)) == 1, "no other relay process took the place of the dead one")


def test_signals_to_the_whole_group_are_for_the_control_process(
    place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    """As systemd's SIGTERM, and `killall -HUP`: relay processes serve on until control, by its configuration, has them drain."""
    several = start_proxy(configuration(place, workers=2, timeouts={"drain_s": 5, "drain_delay_s": 1}))
    url = f"http://{place.api_url.removeprefix('https://')}/orders"
    group = [*relay_processes(several), *templates(several), several.process.pid]
    for number, line in ((signal.SIGHUP, "apim-auth-proxy: reloaded"), (signal.SIGTERM, "draining")):
        for pid in group:
            os.kill(pid, number)
        several.wait_for_line(line)
        assert [*relay_processes(several), *templates(several), several.process.pid] == group
        assert curl("--proxy", several.forward, url).status == 200
    assert several.wait() == 0
    assert not [line for line in several.lines if "takes its place" in line]
    assert not [pid for pid in group if Path(f"/proc/{pid}").exists()]


def test_a_reload_with_a_file_that_no_relay_process_could_use_changes_nothing(
    several: ProxyProgram, place: Place, curl: Curl
) -> None:
    before = relay_processes(several)
    broken = several.config_file.parent / "broken.pem"
    broken.write_text("no certificate")
    write_configuration(
        configuration(place, route={"ca_file": str(broken)}) | {"workers": 2}, several.config_file.parent
    )
    several.signal(signal.SIGHUP)
    several.wait_for_line("the new configuration is not used")
    several.wait_for_line(f"{broken} cannot be used as ca_file")
    assert curl("--proxy", several.forward, f"http://{place.api_authority}/orders").status == 200
    assert relay_processes(several) == before


def test_a_file_that_no_relay_process_could_use_ends_the_start_at_once(place: Place, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    config = write_configuration(configuration(place, route={"ca_file": str(broken)}) | {"workers": 2}, tmp_path)
    done = run_program([COMMAND, "run", "--config", config])
    assert done.status == 2
    assert done.stderr.startswith(f"The proxy's configuration is wrong:\n{broken} cannot be used as ca_file")
    assert "relay process" not in done.stderr


def test_a_path_that_is_no_text_ends_the_start_at_once(place: Place, tmp_path: Path) -> None:
    """Relay processes are told of the settings in JSON."""
    directory = tmp_path / os.fsdecode(b"\xe9")
    directory.mkdir()
    ca_file = directory / "ca.pem"
    ca_file.write_bytes(Path(place.ca_file).read_bytes())
    described = configuration(place, route={"ca_file": "${DIRECTORY}/ca.pem"}) | {"workers": 2}
    config = write_configuration(described, tmp_path)
    done = run_program([COMMAND, "run", "--config", config], environ={**environment(), "DIRECTORY": str(directory)})
    assert done.status == 2
    assert "bytes that are not UTF-8" in done.stderr
    assert "workers: 1" in done.stderr


def test_relay_processes_share_most_of_their_memory(several: ProxyProgram, place: Place, curl: Curl) -> None:
    host = place.api_url.removeprefix("https://")
    for _ in range(8):
        assert curl("--proxy", several.forward, f"http://{host}/orders").status == 200
    for pid in relay_processes(several):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        sizes = {name: int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
        assert 2 * (sizes["Private_Clean"] + sizes["Private_Dirty"]) < sizes["Rss"]


def test_relay_processes_that_cannot_be_started_are_tried_again_for_ever(
    several: ProxyProgram, place: Place, curl: Curl
) -> None:
    """A6: no descriptor is left while every relay process dies; not ready meanwhile, and serving again by itself."""
    line = next(line for line in several.lines if "health and metrics on" in line)
    admin = urlsplit(line.rpartition(" ")[2])
    asking = http.client.HTTPConnection(admin.hostname or "", admin.port, timeout=PATIENCE_S)

    def ask() -> tuple[int, str]:
        asking.request("GET", "/readyz")
        response = asking.getresponse()
        return response.status, response.read().decode()

    with contextlib.closing(asking):
        # On one connection, which needs no further descriptor.
        wait_until(lambda: ask()[0] == 200, "never ready")
        pid = several.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most))
        for worker in relay_processes(several):
            os.kill(worker, signal.SIGKILL)
        for number in (0, 1):
            several.wait_for_line(
                f"relay process {number} could not be started: this process has no file descriptor left"
            )
        status, content = ask()
        assert status == 503
        assert "no relay process is running" in content
        several.wait_for(lambda lines: sum("could not be started" in line for line in lines) >= 4)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        wait_until(lambda: ask()[0] == 200, "not ready again although relay processes can be started")
        host = place.api_url.removeprefix("https://")
        assert curl("--proxy", several.forward, f"http://{host}/orders").status == 200
        wait_until(lambda: len(relay_processes(several)) == 2, "one relay process is lost for good")


def test_a_drain_lets_every_relay_process_finish(place: Place, start_proxy: StartProxy) -> None:
    """SIGTERM to the control process: exchanges in flight get their responses, then all processes are gone."""
    several = start_proxy(configuration(place, workers=2, timeouts={"drain_s": 120}))
    pids = relay_processes(several)
    assert len(pids) == 2
    with contextlib.ExitStack() as stack:
        calls = [Call(several, place, "/orders") for _ in range(8)]
        for call in calls:
            stack.callback(call.close)
        several.signal(signal.SIGTERM)
        several.wait_for_line("draining")
        for call in calls:
            call.send_content()
        assert {call.read().partition(b"\r\n")[0] for call in calls} == {b"HTTP/1.1 200 OK"}
    assert several.wait() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_two_signals_at_a_time_leave_no_relay_process(place: Place, start_proxy: StartProxy) -> None:
    """The second one comes before the drain has begun: what it ends is not replaced, and the exchange is cut."""
    several = start_proxy(configuration(place, workers=2, timeouts={"drain_s": 300}))
    pids = relay_processes(several)
    call = Call(several, place, "/slow/300")
    call.send_content()
    several.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, several.process.pid, os.WSTOPPED)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        several.signal(number)
    assert several.wait() == 0
    assert call.read() == b""
    call.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not [line for line in several.lines if "Traceback" in line or "takes its place" in line]


@pytest.mark.asyncio
async def test_a_token_refused_in_a_relay_process_is_replaced_by_control(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy, curl: Curl
) -> None:
    """The 401 never reaches the client: the relay process complains, control gets another token, the request is replayed."""
    import asyncio

    await asyncio.to_thread(sandbox.write_directory, tmp_path / "sandbox")
    place = Place.read(tmp_path / "sandbox")
    proxy = await asyncio.to_thread(start_proxy, configuration(place) | {"workers": 2})
    url = f"http://{place.api_url.removeprefix('https://')}/orders"
    assert (await asyncio.to_thread(curl, "--proxy", proxy.forward, url)).status == 200
    sandbox.revoke_issued_tokens(with_challenge=True)
    assert (await asyncio.to_thread(curl, "--proxy", proxy.forward, url)).status == 200
    assert sandbox.token_request_count == 2
    await asyncio.to_thread(proxy.stop)


def test_a_port_in_use_is_an_error_although_processes_share_it(
    several: ProxyProgram, place: Place, start_proxy: StartProxy
) -> None:
    taken = several.address("forward")
    settings = configuration(place) | {"workers": 2, "listeners": [{"address": taken, "mode": "forward"}]}
    with pytest.raises(AssertionError, match="A proxy is already running and listens on"):
        start_proxy(settings)
