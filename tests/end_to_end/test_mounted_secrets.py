"""Keys as Docker, compose and Kubernetes mount them: read-only, root's, readable by all; or somebody else's (D4)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from tests.end_to_end.programs import COMMAND, ROOT, configuration, run_program, write_configuration
from tests.other_user import USER, needs_another_user, open_directory, run_as_other_user

if TYPE_CHECKING:
    import subprocess

    from tests.end_to_end.programs import Place

pytestmark = needs_another_user
IN_WORDS: Final = ("`defaultMode: 0400`", "`fsGroup`", "chown 65532")


def _check(
    place: Place, directory: Path, *, mode: int, owner: int, is_read_only: bool
) -> subprocess.CompletedProcess[str]:
    """`check` as the image's user, with the key in a directory that is mounted read-only or not."""
    secrets = directory / "secrets"
    secrets.mkdir()
    key = Path(shutil.copy(place.certificate, secrets / "clientapp.pem"))
    ca = Path(shutil.copy(place.ca_file, directory / "ca.pem"))
    key.chmod(mode)
    os.chown(key, owner, owner)
    ca.chmod(0o644)
    state = directory / "state"
    state.mkdir(0o700)
    shutil.chown(state, USER, USER)
    settings = configuration(
        place, credential={"certificate": str(key), "ca_file": str(ca)}, route={"ca_file": str(ca)}
    )
    path = write_configuration(settings, directory)
    path.chmod(0o644)
    quoted = shlex.quote(str(secrets))
    mounts = [f"mount --bind {quoted} {quoted}", f"mount -o remount,ro,bind {quoted}"] if is_read_only else []
    return run_as_other_user([COMMAND, "check", "--config", path], directory, mounts=mounts)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def test_a_secret_as_docker_mounts_it_is_taken_with_a_warning(place: Place) -> None:
    with open_directory() as directory:
        done = _check(place, directory, mode=0o444, owner=0, is_read_only=True)

    said = _said(done)
    assert done.returncode == 0, said
    assert "It is taken, because it is root's and on a read-only file system" in said
    assert [words for words in IN_WORDS if words not in said] == []


def test_the_same_file_on_a_file_system_that_can_be_written_to_is_refused(place: Place) -> None:
    with open_directory() as directory:
        done = _check(place, directory, mode=0o444, owner=0, is_read_only=False)

    said = _said(done)
    assert done.returncode == 2
    assert "holds a secret, and other users of this machine can read it" in said
    assert [words for words in IN_WORDS if words not in said] == []


def test_somebody_elses_open_key_on_a_read_only_file_system_is_refused(place: Place) -> None:
    with open_directory() as directory:
        done = _check(place, directory, mode=0o644, owner=1_000, is_read_only=True)

    assert done.returncode == 2
    assert "change it where it is mounted from" in _said(done)


def test_a_key_that_the_images_user_cannot_read_says_how_it_can(place: Place) -> None:
    with open_directory() as directory:
        done = _check(place, directory, mode=0o600, owner=1_000, is_read_only=True)

    said = _said(done)
    assert done.returncode == 2
    assert f"cannot be read by the user that runs the proxy, {USER}; run: chown {USER} FILE as root" in said
    assert "fsGroup" in said


def test_the_compose_file_of_the_docker_page_works_as_written() -> None:
    """Its commands make the files, its volumes mount them, and the image's user starts with them, on read-only file systems."""
    text = (ROOT / "docs/how-to/places/docker.md").read_text(encoding="utf-8")
    section = text[text.index("## A container whose only way out is the proxy") :]
    commands = re.findall(r"```sh .*?\n(.*?)```", section, re.DOTALL)[0]
    compose, listeners = (yaml.safe_load(found) for found in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[:2])
    proxy = compose["services"]["proxy"]
    assert proxy["read_only"] is True
    with open_directory() as host:
        lines = commands.replace("sudo ", "").replace("apim-auth-proxy", shlex.quote(COMMAND))
        made = run_program(["sh", "-ec", lines], directory=host)
        assert made.status == 0, made.stderr
        settings = listeners | {
            "credentials": {"c": {"tenant_id": "contoso.onmicrosoft.com", "client_id": "22222222-2222-2222-2222-222222222222",
                                  "certificate": "clientapp.crt", "private_key": "clientapp.key"}},
            "routes": [{"hosts": ["contoso.azure-api.net"], "credential": "c", "scope": "api://orders/.default"}],
        }  # fmt: skip
        write_configuration(settings, host / "config").chmod(0o644)
        (config, inside, mode), (volume, state) = (one.split(":") for one in proxy["volumes"])
        assert (mode, volume) == ("ro", "state")
        container = host / "container"
        mounts = [f"mkdir -p {container}{inside} {container}{state}",
                  f"mount -t tmpfs -o mode=700,uid={USER} none {container}{state}",
                  f"mount --bind {host / config} {container}{inside}",
                  f"mount -o remount,ro,bind {container}{inside}"]  # fmt: skip
        arguments = [
            "env",
            f"XDG_STATE_HOME={container}{state}",
            COMMAND,
            "check",
            "--config",
            f"{container}{inside}/config.yaml",
        ]

        done = run_as_other_user(arguments, host, mounts=mounts)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "holds a secret" not in done.stdout
