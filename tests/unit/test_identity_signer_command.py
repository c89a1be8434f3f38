"""A signer outside the process: whatever the command does, one answer in bounded time, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.errors import IdentityError
from proxy.identity.certificate import PublicCertificate, load_public_certificate, verify_signature
from proxy.identity.certificate_creation import create_certificate
from proxy.identity.proof.signer_command import CommandSigner

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT = b"header.claims"
LOOPS = [asyncio.new_event_loop]
if importlib.util.find_spec("uvloop"):
    LOOPS.append(importlib.import_module("uvloop").new_event_loop)


@dataclass(frozen=True)
class Files:
    directory: Path
    key: Path
    other_key: Path
    certificate: PublicCertificate


OTHERS: set[str] = set()


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Both event loops the proxy runs on, as each starts processes in its own way."""
    with asyncio.Runner(loop_factory=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("signer")
    certificate, key = create_certificate("client", 1, 2048, datetime.now(UTC))
    _, other = create_certificate("other", 1, 2048, datetime.now(UTC))
    for name, content in (("clientapp.crt", certificate), ("clientapp.key", key), ("other.key", other)):
        (directory / name).write_bytes(content)
    public = load_public_certificate(directory / "clientapp.crt")
    return Files(directory, directory / "clientapp.key", directory / "other.key", public)


def _openssl(key: Path, algorithm: str) -> list[str]:
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"] if algorithm == "PS256" else []
    return ["openssl", "dgst", "-sha256", *pss, "-sign", str(key)]


def _shell(script: str) -> list[str]:
    return ["sh", "-c", script]


async def _sign(files: Files, command: list[str], algorithm: str = "PS256", timeout_s: float = 30) -> bytes:
    return await CommandSigner(command, files.certificate, timeout_s=timeout_s).sign(INPUT, algorithm)


@pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
@pytest.mark.parametrize("form", ["raw", "base64", "base64url"])
def test_the_signature_may_be_raw_or_text(runner: asyncio.Runner, algorithm: str, form: str, files: Files) -> None:
    sign = " ".join(_openssl(files.key, algorithm))
    turn = {"raw": "", "base64": "| base64", "base64url": "| base64 -w0 | tr '+/' '-_' | tr -d '='"}[form]

    signature = runner.run(_sign(files, _shell(f"{sign} {turn}"), algorithm))

    assert verify_signature(files.certificate, signature, INPUT, algorithm)


def test_the_command_learns_the_algorithm_from_its_environment(runner: asyncio.Runner, files: Files) -> None:
    script = f'[ "$SIGNING_ALGORITHM" = RS256 ] && exec {" ".join(_openssl(files.key, "RS256"))}'

    assert runner.run(_sign(files, _shell(script), "RS256"))


BAD: dict[str, tuple[str, str]] = {
    "fails": ("exit 3", "exit status 3"),
    "fails_after_answering": ("cat >/dev/null; echo hello; exit 1", "exit status 1"),
    "killed": ("kill -9 $$", "ended by signal 9"),
    "says_nothing": ("cat >/dev/null", "not the signature"),
    "rubbish": ("cat >/dev/null; echo hello", "not the signature"),
    "right_size_rubbish": ("head -c 256 /dev/zero", "not the signature"),
    "echoes": ("cat", "not the signature"),
    "endless_output": ("yes", "more than a signature"),
    "large_output": ("head -c 100000 /dev/zero", "more than a signature"),
    "hangs": ("sleep 60", "did not answer within 1 s"),
    "hangs_ignoring_signals": ("trap '' TERM INT HUP; sleep 60", "did not answer within 1 s"),
    "hangs_after_answering": ("echo hello; exec sleep 60", "did not answer within 1 s"),
    "leaves_a_child_with_the_pipe": ("sleep 60 & exit 0", "did not answer within 1 s"),
    "leaves_a_child_outside_its_group": ("setsid sleep 40 & exit 0", "did not answer within 1 s"),
    "does_not_read_and_closes": ("exec <&-; sleep 0.1; exit 4", "exit status 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_command_that_misbehaves_is_one_error_in_bounded_time(
    runner: asyncio.Runner, name: str, files: Files
) -> None:
    script, reason = BAD[name]
    began = time.monotonic()

    with pytest.raises(IdentityError) as caught:
        runner.run(_sign(files, _shell(script), timeout_s=1 if "within 1 s" in reason else 30))

    assert reason in caught.value.detail
    assert caught.value.code == "signer_failed"
    assert time.monotonic() - began < 30  # of children that stay for longer
    assert _children() == []


def test_a_key_that_is_not_the_certificates_is_noticed_here(runner: asyncio.Runner, files: Files) -> None:
    with pytest.raises(IdentityError, match="not the signature"):
        runner.run(_sign(files, _openssl(files.other_key, "PS256")))


def test_the_wrong_padding_is_noticed_here(runner: asyncio.Runner, files: Files) -> None:
    with pytest.raises(IdentityError, match="with PS256"):
        runner.run(_sign(files, _openssl(files.key, "RS256")))


@pytest.mark.parametrize("program", ["/no/such/program", "/etc/hostname", "/tmp"])  # noqa: S108 -- a directory that is no program
def test_a_program_that_cannot_be_started_is_named(runner: asyncio.Runner, program: str, files: Files) -> None:
    with pytest.raises(IdentityError, match=rf"{program} (cannot be started|failed with exit status 127)"):
        runner.run(_sign(files, [program]))


def test_a_cancelled_request_ends_the_command(runner: asyncio.Runner, files: Files) -> None:
    async def cancel() -> bool:
        task = asyncio.create_task(_sign(files, _shell("sleep 60; true"), timeout_s=30))
        for _ in range(3_000):
            if _children():
                break
            await asyncio.sleep(0.01)
        assert _children() != []
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert runner.run(cancel())
    assert _children() == []


def test_more_than_a_pipe_holds_is_one_error(runner: asyncio.Runner, files: Files) -> None:
    signer = CommandSigner(["cat"], files.certificate)

    with pytest.raises(IdentityError, match="certificate chain"):
        runner.run(signer.sign(b"x" * 1_000_000, "PS256"))


def test_arguments_are_not_shown(files: Files) -> None:
    signer = CommandSigner(["sign-with-token", "--pin", "123456"], files.certificate)

    assert "123456" not in signer.name
    assert files.certificate.sha1_hex in signer.name


@pytest.fixture
def token_module(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PKCS#11 token of SoftHSM with the key in it; returns the library to reach it by."""
    if shutil.which("softhsm2-util") is None or shutil.which("pkcs11-tool") is None:
        pytest.skip("needs SoftHSM and OpenSC: apt-get install softhsm2 opensc")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("TOKEN_PIN", "1234")
    for arguments in (
        ["--init-token", "--free", "--label", "proxy", "--so-pin", "0000", "--pin", "1234"],
        ["--import", str(files.key), "--token", "proxy", "--label", "clientapp", "--id", "01", "--pin", "1234"],
    ):
        subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)
    libraries = [Path("/usr/lib/softhsm/libsofthsm2.so"), *Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")]
    return next(library for library in libraries if library.exists())


@pytest.mark.parametrize(("algorithm", "mechanism"), [("PS256", "SHA256-RSA-PKCS-PSS"), ("RS256", "SHA256-RSA-PKCS")])
def test_a_key_in_a_pkcs11_token_signs_without_leaving_it(
    runner: asyncio.Runner, algorithm: str, mechanism: str, files: Files, token_module: Path
) -> None:
    script = (
        f'exec pkcs11-tool --module {token_module} --token-label proxy --login --pin "$TOKEN_PIN"'
        f" --sign --id 01 --mechanism {mechanism} --input-file /dev/stdin --output-file /dev/stdout"
    )

    signature = runner.run(_sign(files, _shell(script), algorithm))

    assert verify_signature(files.certificate, signature, INPUT, algorithm)


@pytest.fixture(autouse=True)
def _others() -> Iterator[None]:
    """Take what other tests have running in this process for none of ours."""
    OTHERS.update(_child_ids())
    yield
    OTHERS.clear()


def _children() -> list[str]:
    """Return what this process has started in this test and not reaped, zombies included."""
    found: list[str] = []
    for child in _child_ids() - OTHERS:
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{child}/stat").read_text())
    return found


def _child_ids() -> set[str]:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    children: set[str] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # A thread that has just ended.
            children.update((thread / "children").read_text().split())
    return children
