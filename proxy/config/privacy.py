"""Whether others than the proxy can read the files that hold its secrets, and what to do about it. Looks at files.

A file that others can read is a reason not to start. One kind is warned of instead, because whoever runs the proxy often cannot
change it: a file of root's on a read-only file system, as Docker and Kubernetes mount secrets. In a container, nobody else is there
to read it.
"""

from __future__ import annotations

import os
import shlex
import stat
from enum import Enum
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError
from proxy.keys.forms import holds_private_key, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.config.settings import Settings

_ROOT = 0
# The user of the image.
_IMAGE_USER = 65532


class Exposure(Enum):
    """Who can read or change a file beside its owner."""

    PRIVATE = "private"
    TOLERATED = "tolerated"
    OPEN = "open"


def judge_mode(mode: int, owner: int, user: int, *, is_read_only: bool) -> Exposure:
    """Return how far a file is open.

    The group may read a file of root's where the proxy itself is not root, because then the group is how it gets at the file at
    all. Kubernetes mounts secrets so (fsGroup), and PostgreSQL takes the same view of its key.

    Args:
        mode: of the file.
        owner: of the file.
        user: whom the proxy runs as.
        is_read_only: whether the file system is.
    """
    others = mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not others & ~(stat.S_IRGRP if owner == _ROOT and user != _ROOT else 0):
        return Exposure.PRIVATE
    if is_read_only and owner == _ROOT and not others & (stat.S_IWGRP | stat.S_IWOTH):
        return Exposure.TOLERATED
    return Exposure.OPEN


def judge_file(file: Path) -> Exposure:
    """Return how far a file is open; private where that cannot be told, and where it is no plain file."""
    if os.name != "posix":
        return Exposure.PRIVATE
    try:
        found = file.stat()
        is_read_only = _is_read_only(file)
    except OSError:
        return Exposure.PRIVATE
    if not stat.S_ISREG(found.st_mode):
        return Exposure.PRIVATE
    return judge_mode(found.st_mode, found.st_uid, os.geteuid(), is_read_only=is_read_only)


def describe_way_out(file: Path) -> str:
    """Return what to do about a file that others can read, as a clause."""
    command = f"chmod 600 {shlex.quote(str(file))}"
    try:
        is_ours = file.stat().st_uid == os.geteuid() and not _is_read_only(file)
    except OSError:
        is_ours = True
    if is_ours:
        return f"run: {command}"
    return (
        "change it where it is mounted from: in Kubernetes set `defaultMode: 0400` on the secret's volume and `fsGroup` in the "
        f"pod's securityContext; with Docker or compose, on the host: chown {_IMAGE_USER} (the image's user) and chmod 600; "
        f"elsewhere, as the file's owner: {command}"
    )


def describe_reader() -> str:
    """Return who runs the proxy, and how a file is made readable for that user, as a clause."""
    if os.name != "posix":
        return "so let that user read it"
    user = os.geteuid()
    return (
        f"{user}; run: chown {user} FILE as root, on the host where it is mounted into a container; in Kubernetes set `fsGroup` "
        "in the pod's securityContext"
    )


def may_hold_key(file: Path) -> bool:
    """Return whether there may be a private key in a file; True where that cannot be told."""
    try:
        return holds_private_key(read_file(file))
    except ConfigurationError:
        return True


def find_tolerated(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the key, and a sentence of warning, for each file whose secret others can read and that is taken all the same."""
    for key, file in _list_secret_files(settings):
        if judge_file(file) is Exposure.TOLERATED:
            sentence = (
                f"{file} holds a secret, and every user of this machine can read it. It is taken, because it is root's and on a "
                f"read-only file system. To keep it private, {describe_way_out(file)}."
            )
            yield key, sentence


def _list_secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for name, credential in settings.credentials.items():
        path = f"credentials.{name}"
        if not credential.signer_command and credential.key_vault_key is None:
            yield from _list_pair(path, "certificate", credential.certificate, "private_key", credential.private_key)
        yield from _list_file(f"{path}.password_file", credential.password_file)
        for index, entry in enumerate(credential.certificates):
            inner = f"{path}.certificates[{index}]"
            yield from _list_pair(inner, "certificate", entry.certificate, "private_key", entry.private_key)
            yield from _list_file(f"{inner}.password_file", entry.password_file)
    for index, listener in enumerate(settings.listeners):
        if listener.tls is not None:
            tls, path = listener.tls, f"listeners[{index}].tls"
            yield from _list_pair(path, "certificate", tls.certificate, "private_key", tls.private_key)
            yield from _list_file(f"{path}.password_file", tls.password_file)
    for index, route in enumerate(settings.routes):
        path = f"routes[{index}]"
        pair = ("client_certificate", route.client_certificate, "client_private_key", route.client_private_key)
        yield from _list_pair(path, *pair)
        yield from _list_file(f"{path}.client_password_file", route.client_password_file)
    ca = settings.interception
    yield from _list_pair("interception", "ca_certificate", ca.ca_certificate, "ca_private_key", ca.ca_private_key)
    yield from _list_file("interception.ca_password_file", ca.ca_password_file)
    if settings.token_cache is not None:
        yield from _list_file("token_cache.password_file", settings.token_cache.password_file)
        for index, file in enumerate(settings.token_cache.key_files):
            yield from _list_file(f"token_cache.key_files[{index}]", file)
    if settings.admin is not None:
        yield from _list_file("admin.token_file", settings.admin.token_file)


def _list_pair(
    path: str, certificate_key: str, certificate: Path | None, private_key: str, key_file: Path | None
) -> Iterator[tuple[str, Path]]:
    """Yield the file with the private key."""
    if key_file is not None:
        yield f"{path}.{private_key}", key_file
    elif certificate is not None and judge_file(certificate) is not Exposure.PRIVATE and may_hold_key(certificate):
        yield f"{path}.{certificate_key}", certificate


def _list_file(key: str, file: Path | None) -> Iterator[tuple[str, Path]]:
    if file is not None:
        yield key, file


def _is_read_only(file: Path) -> bool:
    return bool(os.statvfs(file).f_flag & os.ST_RDONLY)
