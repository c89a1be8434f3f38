"""How each platform and runtime is told to trust the interception CA. Pure, but for `install`, which runs the platform's program.

A CA that is trusted by a whole machine is trusted for all it may sign: here, by its name constraints, for routed hosts only.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Final

from proxy.client_setup.bundle import split_pem
from proxy.client_setup.shells import quote_powershell
from proxy.errors import ConfigurationError

_NAME: Final = "apim-auth-proxy.crt"


class Platform(StrEnum):
    """Where a CA can be trusted."""

    DEBIAN = "debian"
    RHEL = "rhel"
    ALPINE = "alpine"
    MACOS = "macos"
    WINDOWS = "windows"
    JAVA = "java"
    NSS = "nss"
    DOCKERFILE = "dockerfile"


# The directory for a machine's own anchors, and the program that merges them.
_STORES: Final = {
    Platform.DEBIAN: ("usr/local/share/ca-certificates", "update-ca-certificates"),
    Platform.ALPINE: ("usr/local/share/ca-certificates", "update-ca-certificates"),
    Platform.RHEL: ("etc/pki/ca-trust/source/anchors", "update-ca-trust"),
}
INSTALLABLE: Final = tuple(_STORES)

_INSTRUCTIONS: Final = {
    Platform.DEBIAN: (
        "Debian, Ubuntu (for curl, git, Python's ssl, Go, .NET, Ruby)",
        "install -m 0644 {ca} /usr/local/share/ca-certificates/apim-auth-proxy.crt\nupdate-ca-certificates",
    ),
    Platform.RHEL: (
        "Red Hat, Fedora, Amazon Linux",
        "install -m 0644 {ca} /etc/pki/ca-trust/source/anchors/apim-auth-proxy.crt\nupdate-ca-trust",
    ),
    Platform.ALPINE: (
        "Alpine",
        (
            "apk add ca-certificates\n"
            "install -D -m 0644 {ca} /usr/local/share/ca-certificates/apim-auth-proxy.crt\nupdate-ca-certificates"
        ),
    ),
    Platform.MACOS: (
        "macOS (for Safari, Chrome, Go)",
        "security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {ca}",
    ),
    Platform.WINDOWS: (
        "Windows (for .NET, PowerShell, Edge, Chrome), as administrator",
        "Import-Certificate -FilePath {ca} -CertStoreLocation Cert:\\LocalMachine\\Root",
    ),
    Platform.JAVA: (
        "Java, for one JAVA_HOME",
        "keytool -importcert -noprompt -alias apim-auth-proxy -file {ca} -cacerts -storepass changeit",
    ),
    Platform.NSS: (
        "NSS (Firefox and Chrome on Linux); certutil is in libnss3-tools, the directory is the profile's",
        'certutil -A -n apim-auth-proxy -t "C,," -i {ca} -d sql:$HOME/.pki/nssdb',
    ),
    Platform.DOCKERFILE: (
        "A Debian image, with ca.pem of `apim-auth-proxy ca export` in the build context",
        (
            "COPY ca.pem /usr/local/share/ca-certificates/apim-auth-proxy.crt\n"
            "RUN update-ca-certificates\n"
            "# These bring roots of their own:\n"
            "ENV REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt"
        ),
    ),
}


def format_instructions(platform: Platform, ca: str) -> tuple[str, str]:
    """Return what a platform's instructions are for, and the commands.

    Args:
        platform: which.
        ca: the path of the CA's PEM file.
    """
    title, commands = _INSTRUCTIONS[platform]
    quoted = quote_powershell(ca) if platform is Platform.WINDOWS else shlex.quote(ca)
    return title, commands.format(ca=quoted)


def detect_platform(os_release: str) -> Platform | None:
    """Return the platform that ``os-release`` names, None for one that `install` does not know. Source: os-release(5)."""
    values = dict(line.partition("=")[::2] for line in os_release.splitlines())
    names = f"{values.get('ID', '')} {values.get('ID_LIKE', '')}".replace('"', "").split()
    known = {"debian": Platform.DEBIAN, "alpine": Platform.ALPINE, "rhel": Platform.RHEL, "fedora": Platform.RHEL}
    return next((known[name] for name in names if name in known), None)


def install(platform: Platform, anchors: bytes, root: Path) -> Path:
    """Have a system trust the CA, and return where it was put.

    Args:
        platform: one of `INSTALLABLE`.
        anchors: PEM.
        root: of the system; ``/`` or that of an image.

    Raises:
        ConfigurationError: it could not be done.
    """
    directory, program = _STORES[platform]
    target = root / directory / _NAME
    command = [program]
    if root != Path("/"):
        command = _debian_command(program, root) if platform is Platform.DEBIAN else ["chroot", str(root), program]
    if shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        raise ConfigurationError(f"There is no {command[0]} here; install the package ca-certificates first.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(anchors)
        target.chmod(0o644)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error.strerror}. Run this as root.") from None
    environ = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, check=False, env=environ)  # noqa: S603  # from a fixed list
    if done.returncode != 0:
        raise ConfigurationError(
            f"`{' '.join(command)}` failed with status {done.returncode}. Run it by hand to see why."
        )
    _check(platform, anchors, root)
    return target


def _debian_command(program: str, root: Path) -> list[str]:
    """Return the command that works on another root without that root's programs, and so for another architecture, too."""
    places = {
        "--certsconf": "etc/ca-certificates.conf",
        "--certsdir": "usr/share/ca-certificates",
        "--localcertsdir": "usr/local/share/ca-certificates",
        "--etccertsdir": "etc/ssl/certs",
        "--hooksdir": "etc/ca-certificates/update.d",
    }
    return [program, *(word for option, place in places.items() for word in (option, str(root / place)))]


def _check(platform: Platform, anchors: bytes, root: Path) -> None:
    """See whether the merged file has it: the programs say little, and exit with 0 for options that they do not know.

    Raises:
        ConfigurationError: it has not.
    """
    merged = root / (
        "etc/pki/tls/certs/ca-bundle.crt" if platform is Platform.RHEL else "etc/ssl/certs/ca-certificates.crt"
    )
    try:
        found = merged.read_bytes()
    except OSError:
        found = b""
    # Red Hat's program writes each certificate anew, between comments.
    if not all(_body(pem) in _body(found) for pem in split_pem(anchors)):
        raise ConfigurationError(
            f"{merged} does not hold the CA, although the system's program ended well. Look into that file."
        )


def _body(content: bytes) -> bytes:
    return b"".join(content.split())
