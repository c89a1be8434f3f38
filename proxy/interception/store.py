"""The interception CA on disk: load it or create it, archive what it replaces, rotate it with an overlap.

Does I/O, all of it blocking and short: for start, reload and commands, not for the event loop. One state directory
belongs to one configuration; any number of processes may share it.

    ca.key                        the CA, whole: key, issuer, anchor and the reason it was issued. Mode 0600. The truth.
    ca.pem                        the anchor, for clients. A copy out of ca.key, made again where it differs.
    ca-next.key, ca-next.pem      the same for the CA that `rotate` has prepared, until `cut_over`
    ca-20260131-1a2b3c4d.pem      an anchor that was replaced that day
    ca.lock                       held while any of these is written

Each file is replaced by a rename, and `ca.key` alone decides, so a crash at any point leaves one whole CA.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError
from proxy.interception.authority import decide_reissue, format_bundle, issue, parse_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from proxy.interception.authority import InterceptionCA

CURRENT = "ca"
NEXT = "ca-next"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load(state_directory: Path) -> InterceptionCA | None:
    """Return the CA in use, or None where none was created yet. Writes nothing.

    Raises:
        ConfigurationError: it cannot be read, is damaged, or others could read it.
    """
    return _read(state_directory, CURRENT)


def load_next(state_directory: Path) -> InterceptionCA | None:
    """Return the CA that a rotation has prepared, or None outside a rotation. Writes nothing.

    Raises:
        ConfigurationError: as `load`.
    """
    prepared, ca = _read(state_directory, NEXT), _read(state_directory, CURRENT)
    if prepared is not None and ca is not None and prepared.anchor == ca.anchor:
        return None  # it took over, and the process that saw to it was stopped before it had cleared up
    return prepared


def load_or_create(state_directory: Path, hosts: Sequence[str], now: datetime) -> InterceptionCA:
    """Return a CA that may sign for these hosts, issuing one where there is none or the one there no longer serves.

    The anchor that clients trusted before is archived, and the new CA's `reason` and `replaces` say what happened. A CA
    prepared by `rotate` is taken first, if it serves.

    Args:
        state_directory: made with mode 0700 where it does not exist. Only read, where the CA there serves.
        hosts: the routed hosts: DNS names, ``*.`` wildcards or IP literals, without ports.
        now: an aware datetime.

    Raises:
        ConfigurationError: a host is not a name, or the directory or a file in it cannot be used.
    """
    ca = load(state_directory)
    if ca is not None and decide_reissue(ca, hosts, now) is None and _is_published(state_directory, ca):
        return ca
    with _locked(state_directory):
        ca = load(state_directory)  # another process may have been faster
        if ca is None:
            ca = issue(hosts, now, reason="created: clients must trust it")
            _write(state_directory, CURRENT, ca)
            return ca
        reason = decide_reissue(ca, hosts, now)
        if reason is None:
            _publish(state_directory, CURRENT, ca)
            return ca
        prepared = load_next(state_directory)
        if prepared is not None and decide_reissue(prepared, hosts, now) is None:
            return _replace(state_directory, ca, prepared, now)
        return _replace(state_directory, ca, issue(hosts, now, reason=reason, replaces=ca.fingerprint), now)


def rotate(state_directory: Path, hosts: Sequence[str], now: datetime) -> InterceptionCA:
    """Prepare the CA that is to take over at `cut_over`, and return it; clients are then told to trust both.

    Asking again returns the one already prepared, as long as it may sign for these hosts. It signs nothing until then.

    Raises:
        ConfigurationError: as `load_or_create`, or there is no CA to take over from.
    """
    with _locked(state_directory):
        ca = load(state_directory)
        if ca is None:
            raise ConfigurationError(
                f"There is no interception CA in {state_directory} to rotate. Start the proxy once."
            )
        prepared = load_next(state_directory)
        if prepared is None or decide_reissue(prepared, hosts, now) is not None:
            reason = f"rotated: prepared on {now:%Y-%m-%d}, clients were to trust it before it took over"
            prepared = issue(hosts, now, reason=reason, replaces=ca.fingerprint)
            _write(state_directory, NEXT, prepared)
        return prepared


def cut_over(state_directory: Path, now: datetime) -> InterceptionCA:
    """Let the prepared CA take over, and return it. A running proxy signs with it from its next reload.

    Raises:
        ConfigurationError: none is prepared, or a file cannot be used.
    """
    with _locked(state_directory):
        ca, prepared = load(state_directory), load_next(state_directory)
        if ca is None or prepared is None:
            raise ConfigurationError(f"No interception CA is prepared in {state_directory}. Rotate first.")
        return _replace(state_directory, ca, prepared, now)


def trusted_pem(state_directory: Path) -> bytes:
    """Return the anchors clients are to trust now: the one in use and, during a rotation, the next.

    Raises:
        ConfigurationError: as `load`, or there is no CA yet.
    """
    ca, prepared = load(state_directory), load_next(state_directory)
    if ca is None:
        raise ConfigurationError(f"There is no interception CA in {state_directory} yet. Start the proxy once.")
    return ca.anchor_pem() + (prepared.anchor_pem() if prepared is not None else b"")


def _read(directory: Path, stem: str) -> InterceptionCA | None:
    path = directory / f"{stem}.key"
    try:
        with path.open("rb") as file:
            # The mode of the file that is read, not of one put in its place meanwhile.
            _refuse_if_open_to_others(path, os.fstat(file.fileno()), "600")
            text = file.read()
        _refuse_if_open_to_others(directory, directory.stat(), "700")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        return parse_bundle(text)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{path} is not an interception CA. {error.detail} Move it away and start again: a new one is issued, "
            "which clients must trust."
        ) from None


def _replace(directory: Path, old: InterceptionCA, new: InterceptionCA, now: datetime) -> InterceptionCA:
    short_fingerprint = old.fingerprint.replace(":", "")[:8].lower()
    _write_file(directory / f"ca-{now:%Y%m%d}-{short_fingerprint}.pem", old.anchor_pem(), 0o644)
    _write(directory, CURRENT, new)
    # Only now: whatever was prepared has either taken over, or may not sign for the hosts that are routed today.
    for name in (f"{NEXT}.key", f"{NEXT}.pem"):
        _remove(directory / name)
    return new


def _write(directory: Path, stem: str, ca: InterceptionCA) -> None:
    _write_file(directory / f"{stem}.key", format_bundle(ca), 0o600)
    _publish(directory, stem, ca)


def _publish(directory: Path, stem: str, ca: InterceptionCA) -> None:
    _write_file(directory / f"{stem}.pem", ca.anchor_pem(), 0o644)


def _is_published(directory: Path, ca: InterceptionCA) -> bool:
    try:
        return (directory / f"{CURRENT}.pem").read_bytes() == ca.anchor_pem()
    except OSError:
        return False


def _write_file(path: Path, content: bytes, mode: int) -> None:
    """Put a whole file in place of what is there, readable by nobody else at any moment of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            _remove(temporary)
            raise
    except OSError as error:
        raise _unusable(path, error) from None


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _refuse_if_open_to_others(path: Path, status: os.stat_result, mode: str) -> None:
    if os.name != "posix" or not status.st_mode & _OTHERS:
        return
    fix = f"Run: chmod {mode} {path}"
    if mode == "700":
        fix += " (or let state_directory name a directory below it: it is made with that mode)"
    raise ConfigurationError(
        f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}), and whoever has the interception "
        f"CA's key can pose as the routed hosts. {fix}"
    )


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be used: {error.strerror or 'the operating system gives no reason'}. "
        "The interception CA lives there; the proxy's user needs to read and write that directory (state_directory)."
    )


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory against other processes, making it first where it does not exist.

    The lock is the kernel's, so one that a killed process held is free again.
    """
    path = directory / "ca.lock"
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_if_open_to_others(directory, directory.stat(), "700")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, descriptor)
            _lock(descriptor)
        except OSError as error:
            raise _unusable(path, error) from None
        yield


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
