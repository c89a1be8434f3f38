"""The interception CA on disk: load it or create it, prepare the next one, let that take over, archive what it replaces.

Does I/O, all of it blocking and short: for start, reload and commands, not for the event loop. One state directory
belongs to one configuration; any number of processes may share it.

    ca.key                        the CA in use, whole: key, issuer, anchor and the reason it was issued. Mode 0600.
    ca.pem                        what clients are to trust now: all anchors. Made out of the other files, again where it differs.
    ca-next.key, ca-next.pem      the CA that is prepared to take over, and its anchor
    ca-next-2.key, ca-next-2.pem  one prepared after that, for routes that it may not sign for; and so on: the last one takes over
    ca-previous.pem               anchors that were relieved, and until when clients are to trust them
    ca-20260131-1a2b3c4d.pem      an anchor that was replaced that day
    ca.lock                       held while any of these is written

Each file is replaced by a rename, and the keys alone decide, so a crash at any point leaves whole CAs.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import shlex
import stat
import sys
from typing import TYPE_CHECKING

from cryptography import x509

from proxy.errors import ConfigurationError
from proxy.interception.authority import COMMON_NAME, format_bundle, issue, parse_bundle
from proxy.interception.succession import (
    Succession,
    decide_preparation,
    decide_take_over,
    drop_previous,
    format_previous,
    parse_previous,
    take_over,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from proxy.interception.authority import InterceptionCA
    from proxy.interception.succession import Previous

CURRENT = "ca"
NEXT = "ca-next"
PREVIOUS = "ca-previous.pem"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load(state_directory: Path) -> Succession | None:
    """Return what there is, or None where no CA was created yet. Writes nothing.

    Raises:
        ConfigurationError: a file cannot be read, is damaged, or others could read a key.
    """
    current = _read(state_directory, CURRENT)
    if current is None:
        return None
    prepared = (_read(state_directory, stem) for stem in _stems())
    # One that is in use already took over, and the process that saw to it was stopped before it had cleared up.
    found = tuple(ca for ca in itertools.takewhile(lambda ca: ca is not None, prepared) if ca is not None)
    if any(ca.anchor == current.anchor for ca in found):
        found = ()
    return Succession(current, found, _read_previous(state_directory))


def load_or_create(state_directory: Path, hosts: Sequence[str], now: datetime) -> Succession:
    """Return CAs that together may sign for these hosts, issuing one where it takes one, and seeing to what is due.

    Due is the next CA where routes were added or the one in use ends in a month; that it takes over a week before that end; and
    that clients are no longer told to trust what was relieved long ago.

    Args:
        state_directory: made with mode 0700 where it does not exist. Only read, where nothing is due.
        hosts: the routed hosts: DNS names, ``*.`` wildcards or IP literals, without ports.
        now: an aware datetime.

    Raises:
        ConfigurationError: a host is not a name, or the directory or a file in it cannot be used.
    """
    _require_own(state_directory)
    found = load(state_directory)
    if found is not None and _is_settled(found, hosts, now) and _is_published(state_directory, found):
        return found
    with _locked(state_directory):
        found = load(state_directory)  # another process may have been faster
        if found is None:
            _refuse_foreign(state_directory / f"{CURRENT}.pem")
            found = Succession(issue(hosts, now, reason="created: clients must trust it"))
            _write(state_directory, CURRENT, found.current)
        if decide_take_over(found, now):
            found = _relieve(state_directory, found, _find_successor(found, hosts, now), now)
        reason = decide_preparation(found, hosts, now)
        if reason is not None:
            found = _prepare(state_directory, found, hosts, now, reason)
        found = _drop(state_directory, found, drop_previous(found, now))
        _publish(state_directory, found)
        return found


def rotate(state_directory: Path, hosts: Sequence[str], now: datetime) -> Succession:
    """Prepare the CA that is to take over at `cut_over`; clients are then told to trust both.

    One that is prepared already stays, as long as it may sign for these hosts.

    Raises:
        ConfigurationError: as `load_or_create`, or there is no CA to take over from.
    """
    with _locked(state_directory):
        found = _require(state_directory)
        if not found.prepared or found.newest.constraints.missing(hosts) or _ends_soon(found, now):
            reason = f"rotated: prepared on {now:%Y-%m-%d}, clients were to trust it before it took over"
            found = _prepare(state_directory, found, hosts, now, reason)
        _publish(state_directory, found)
        return found


def cut_over(state_directory: Path, now: datetime) -> Succession:
    """Let the prepared CA take over for all hosts. A running proxy signs with it as soon as it has seen that.

    Raises:
        ConfigurationError: none is prepared, or a file cannot be used.
    """
    with _locked(state_directory):
        found = _require(state_directory)
        if not found.prepared:
            raise ConfigurationError(f"No interception CA is prepared in {state_directory}. Rotate first.")
        found = _relieve(state_directory, found, found.newest, now)
        _publish(state_directory, found)
        return found


def drop(state_directory: Path) -> Succession:
    """No longer tell clients to trust what was relieved, however short ago that was.

    Raises:
        ConfigurationError: there is no CA, or a file cannot be used.
    """
    with _locked(state_directory):
        found = _require(state_directory)
        found = _drop(state_directory, found, Succession(found.current, found.prepared))
        _publish(state_directory, found)
        return found


def trusted_pem(state_directory: Path) -> bytes:
    """Return the anchors clients are to trust now: the one in use and, around a rotation, the next and the one before.

    Raises:
        ConfigurationError: as `load`, or there is no CA yet.
    """
    return _require(state_directory).trusted_pem()


def state_files(state_directory: Path) -> list[Path]:
    """Return the files whose change means that something else is to sign."""
    return [state_directory / f"{CURRENT}.key", state_directory / f"{CURRENT}.pem"]


def _stems() -> Iterator[str]:
    yield NEXT
    yield from (f"{NEXT}-{number}" for number in itertools.count(2))


def _require(directory: Path) -> Succession:
    found = load(directory)
    if found is None:
        raise ConfigurationError(f"There is no interception CA in {directory} yet. Start the proxy once.")
    return found


def _ends_soon(succession: Succession, now: datetime) -> bool:
    return decide_take_over(Succession(succession.newest), now)


def _is_settled(found: Succession, hosts: Sequence[str], now: datetime) -> bool:
    return (
        not decide_take_over(found, now)
        and decide_preparation(found, hosts, now) is None
        and drop_previous(found, now) == found
    )


def _find_successor(found: Succession, hosts: Sequence[str], now: datetime) -> InterceptionCA:
    """Return what takes over from a CA about to end: what is prepared, if that serves, for clients may trust it by now."""
    if found.prepared and not found.newest.constraints.missing(hosts) and not _ends_soon(found, now):
        return found.newest
    reason = f"re-issued because the one before ends on {found.not_after:%Y-%m-%d}: clients must trust the new one"
    return issue(hosts, now, reason=reason, replaces=found.current.fingerprint)


def _require_own(directory: Path) -> None:
    """Refuses a directory that somebody else could put another CA into. Only root gets that far: others may not write there.

    Raises:
        ConfigurationError: it is another user's.
    """
    try:
        owner = directory.stat().st_uid
    except OSError:
        return  # it is made, or cannot be, below
    if os.name == "posix" and owner not in (0, os.geteuid()):
        raise ConfigurationError(
            f"{directory}, the state directory, belongs to user {owner}, who could replace the CA in it. Run the proxy as that "
            f"user, or: chown {os.geteuid()} {shlex.quote(str(directory))}"
        )


def _prepare(directory: Path, found: Succession, hosts: Sequence[str], now: datetime, reason: str) -> Succession:
    new = issue(hosts, now, reason=reason, replaces=found.current.fingerprint)
    stem = next(itertools.islice(_stems(), len(found.prepared), None))
    _clear(directory, len(found.prepared))
    _write(directory, stem, new)
    _write_file(directory / f"{stem}.pem", new.anchor_pem(), 0o644)
    return Succession(found.current, (*found.prepared, new), found.previous)


def _relieve(directory: Path, found: Succession, new: InterceptionCA, now: datetime) -> Succession:
    after = take_over(found, new, now)
    short_fingerprint = found.current.fingerprint.replace(":", "")[:8].lower()
    _write_file(directory / f"ca-{now:%Y%m%d}-{short_fingerprint}.pem", found.current.anchor_pem(), 0o644)
    _write_file(directory / PREVIOUS, format_previous(after.previous), 0o644)
    _write(directory, CURRENT, new)
    _clear(directory, 0)  # only now: whatever was prepared has either taken over, or is not needed any more
    return after


def _clear(directory: Path, kept: int) -> None:
    """Remove what was prepared, but for the first ones; what a process that was stopped has left behind as well."""
    for stem in itertools.islice(_stems(), kept, None):
        key = directory / f"{stem}.key"
        was_there = key.exists()
        _remove(key)
        _remove(directory / f"{stem}.pem")
        if not was_there:
            return


def _drop(directory: Path, before: Succession, after: Succession) -> Succession:
    if before.previous != after.previous:
        _write_file(directory / PREVIOUS, format_previous(after.previous), 0o644)
    return after


def _read_previous(directory: Path) -> tuple[Previous, ...]:
    path = directory / PREVIOUS
    try:
        return parse_previous(path.read_bytes())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _unusable(path, error) from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path} is damaged. {error.detail} Remove it.") from None


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


def _write(directory: Path, stem: str, ca: InterceptionCA) -> None:
    _write_file(directory / f"{stem}.key", format_bundle(ca), 0o600)


def _refuse_foreign(path: Path) -> None:
    """Raise where certificates that are not ours would be replaced by ours: the directory is somebody's, too."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
        is_ours = all(one.subject.rfc4514_string().startswith(f"CN={COMMON_NAME}") for one in certificates)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(path, error) from None
    except ValueError:
        is_ours = False
    if not is_ours:
        raise ConfigurationError(
            f"{path} is there, and apim-auth-proxy has not made it, so it is not replaced. Let `state_directory` name a directory "
            "that is the proxy's alone."
        )


def _publish(directory: Path, found: Succession) -> None:
    if not _is_published(directory, found):
        _write_file(directory / f"{CURRENT}.pem", found.trusted_pem(), 0o644)


def _is_published(directory: Path, found: Succession) -> bool:
    try:
        return (directory / f"{CURRENT}.pem").read_bytes() == found.trusted_pem()
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
    fix = f"Run: chmod {mode} {shlex.quote(str(path))}"
    if mode == "700":
        fix += " (or let state_directory name a directory below it: it is made with that mode)"
    raise ConfigurationError(
        f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}), and whoever has the interception "
        f"CA's key can pose as the routed hosts. {fix}"
    )


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConfigurationError(
            f"{path} cannot be written: {error.strerror}. The interception CA lives there, in state_directory; what was there is "
            "unchanged. Make room and try again."
        )
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
