"""`ca trust`: instructions that name the file, and an installation that real programs then go by."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.client_setup.trust_stores import Platform, detect_platform
from tests.end_to_end.programs import COMMAND, configuration, run_program, write_configuration

if TYPE_CHECKING:
    from tests.end_to_end.programs import Finished, Place

PATH = f"{os.environ['PATH']}:/usr/sbin"


def trust(place: Place, directory: Path, *words: str) -> Finished:
    config = write_configuration(configuration(place), directory)
    return run_program([COMMAND, "ca", "trust", "--config", config, *words])


def test_every_platform_has_commands_that_name_the_file(place: Place, tmp_path: Path) -> None:
    done = trust(place, tmp_path, "--json")
    instructions = json.loads(done.stdout)
    assert set(instructions) == {platform.value for platform in Platform}
    ca = str(tmp_path / "state/ca.pem")
    for name, entry in instructions.items():
        assert any(ca in line for line in entry["commands"]) or name == "dockerfile"
    text = trust(place, tmp_path).stdout.decode()
    assert all(line in text for entry in instructions.values() for line in entry["commands"])


def test_one_platform_is_shown_alone(place: Place, tmp_path: Path) -> None:
    done = trust(place, tmp_path, "--platform", "java")
    assert done.status == 0
    assert b"keytool -importcert" in done.stdout
    assert b"update-ca" not in done.stdout


def test_javas_commands_are_understood_by_keytool(place: Place, tmp_path: Path) -> None:
    """On a copy of Java's store: only the store's name is another."""
    if shutil.which("keytool") is None:
        pytest.skip("keytool is not installed here")
    entry = json.loads(trust(place, tmp_path, "--platform", "java", "--json").stdout)["java"]
    command = entry["commands"][0].replace("-cacerts", f"-keystore {tmp_path / 'store'}")
    done = run_program(["sh", "-c", command])
    assert done.status == 0, done.stderr
    listed = run_program(["keytool", "-list", "-keystore", tmp_path / "store", "-storepass", "changeit"])
    assert b"apim-auth-proxy" in listed.stdout


def test_debian_trusts_it_after_an_installation(place: Place, tmp_path: Path) -> None:
    """In a root of its own, by Debian's own program: the merged file then holds the CA, and so a verifier finds it."""
    if shutil.which("update-ca-certificates", path=PATH) is None:
        pytest.skip("update-ca-certificates is not installed here")
    root = tmp_path / "root"
    for directory in (
        "etc/ssl/certs",
        "usr/share/ca-certificates",
        "usr/local/share/ca-certificates",
        "etc/ca-certificates",
    ):
        (root / directory).mkdir(parents=True)
    (root / "etc/ca-certificates.conf").write_bytes(b"")
    (root / "etc/os-release").write_text('ID=ubuntu\nID_LIKE="debian"\n')
    own = Path("/usr/local/share/ca-certificates/apim-auth-proxy.crt")
    real = Path("/etc/ssl/certs/ca-certificates.crt")
    before = (own.exists(), real.stat().st_mtime_ns)
    done = trust(place, tmp_path, "--install", "--root", str(root), "--json")
    assert (done.status, done.stderr) == (0, "")
    installed = json.loads(done.stdout)
    assert installed["platform"] == "debian"
    ca = (tmp_path / "state/ca.pem").read_text()
    assert Path(installed["installed"]).read_text() == ca
    assert ca.strip() in (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    assert (own.exists(), real.stat().st_mtime_ns) == before, "this machine's own store is left alone"


def test_a_system_that_is_not_known_is_said_so(place: Place, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=plan9\n")
    done = trust(place, tmp_path, "--install", "--root", str(root))
    assert (done.status, done.stdout) == (2, b"")
    assert "--platform" in done.stderr
    assert trust(place, tmp_path, "--install", "--platform", "macos").status == 2


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("ID=debian\n", Platform.DEBIAN),
        ("ID=ubuntu\nID_LIKE=debian\n", Platform.DEBIAN),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', Platform.RHEL),
        ("ID=fedora\n", Platform.RHEL),
        ("ID=alpine\n", Platform.ALPINE),
        ("NAME=Nothing\n", None),
        ("", None),
    ],
)
def test_platforms_are_known_by_their_kin(text: str, platform: Platform | None) -> None:
    assert detect_platform(text) is platform
