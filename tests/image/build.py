"""Builds the container image with buildah, on the Dockerfile's own base or on one made here. Runs programs and writes files.

Images are kept below the cache directory, in a store of their own, so that nothing else on the machine changes and the
base is made once. buildah needs no daemon; with chroot isolation and the vfs driver it needs neither namespaces nor an
overlay file system, so it also works inside a container.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
STORE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apim-auth-proxy" / "images"
IMAGE: Final = "localhost/apim-auth-proxy:image-test"
MADE_BASE: Final = "localhost/bookworm-python:image-test"
CA_BUNDLE: Final = "/run/secrets/ca_bundle"
_PULL_S: Final = 120.0


def buildah(*arguments: str, capture: bool = True, timeout_s: float | None = None) -> str:
    """Runs buildah on the store of these tests and returns what it printed.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on stderr already.
    """
    environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
    store = ["--root", str(STORE / "root"), "--runroot", str(STORE / "run"), "--storage-driver", "vfs"]
    command = ["buildah", *store, *arguments]
    output = subprocess.PIPE if capture else sys.stderr
    done = subprocess.run(command, check=True, env=environment, stdout=output, text=True, timeout=timeout_s)
    return (done.stdout or "").strip()


def choose_base() -> str:
    """Returns the image to build on: ``$BASE_IMAGE``, the Dockerfile's own where it can be had, else one made here."""
    if named := os.environ.get("BASE_IMAGE"):
        return named
    default = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert default is not None, "the Dockerfile names no base image"
    try:
        buildah("pull", "--quiet", default[1], timeout_s=_PULL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        print(f"{default[1]} cannot be pulled here; building on Debian bookworm made by debootstrap", file=sys.stderr)
        _make_base()
        return MADE_BASE
    return default[1]


def _make_base() -> None:
    if buildah("images", "--quiet", "--filter", f"reference={MADE_BASE}", capture=True):
        return
    directory = STORE / "bookworm"
    shutil.rmtree(directory, ignore_errors=True)
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", str(directory)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(directory / "var/cache/apt/archives")
    shutil.rmtree(directory / "var/lib/apt/lists")
    container = buildah("from", "scratch")
    buildah("copy", "--quiet", container, str(directory), "/")
    buildah("commit", "--quiet", "--rm", container, MADE_BASE)
    shutil.rmtree(directory)


def build(base: str, scratch: Path) -> None:
    """Builds the image of the checkout.

    Args:
        base: the image to build on.
        scratch: a directory for files that live as long as the build.
    """
    secrets = []
    configuration, bundle = _pip_configuration()
    if configuration:
        path = scratch / "pip.conf"
        path.touch(mode=0o600)
        path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in configuration.items()))
        secrets.append(f"--secret=id=pip_conf,src={path}")
    if bundle is not None:
        secrets.append(f"--secret=id=ca_bundle,src={bundle}")
    arguments = ["--format=docker", "--layers=false", f"--build-arg=BASE_IMAGE={base}", f"--tag={IMAGE}", *secrets]
    buildah("build", "--quiet", *arguments, str(ROOT), capture=False)


def _pip_configuration() -> tuple[dict[str, str], Path | None]:
    """pip's settings on this machine, for pip in the build, and the file with the roots it trusts.

    What points at local files is left out: those are not in the build.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    settings = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    bundle = settings.pop("cert", None)
    kept = {}
    for name, value in settings.items():
        words = [word for word in value.split() if not word.startswith(("file:", "/"))]
        if words:
            kept[name] = " ".join(words)
    if bundle is None:
        return kept, None
    return kept | {"cert": CA_BUNDLE}, Path(bundle)
