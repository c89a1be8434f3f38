"""Passwords of key files, and what is odd about them. Reads files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError
from proxy.keys.forms import read_plain

if TYPE_CHECKING:
    from pathlib import Path


def read_password(password_file: Path | None) -> bytes | None:
    """Return the file's content without its last line end, or None where there is no file.

    Raises:
        ConfigurationError: the file cannot be read, or is empty.
    """
    if password_file is None:
        return None
    password = read_plain(password_file).removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise ConfigurationError(
            f"{password_file}: the password file is empty; write the password into it, or remove the key."
        )
    return password


def describe_oddity(password: bytes) -> str | None:
    """Return what a password has that its owner probably did not mean; None where it has nothing of the kind.

    The text never tells the password, nor its length.
    """
    if password.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "the password file is UTF-16, as PowerShell's `>` writes it; save it as plain text (-Encoding ascii)"
    if password.startswith(b"\xef\xbb\xbf"):
        return (
            "the password file begins with a byte order mark, which counts as part of the password; save it without one"
        )
    if b"\0" in password:
        return "the password file holds NUL characters; save it as plain text"
    if password.endswith((b"\n", b"\r")):
        return "the password file ends in more than one line end, and only the last is left out; remove the others"
    if b"\n" in password:
        return "the password file holds several lines, all of which count as the password; keep one"
    if password != password.strip():
        return "the password in the file begins or ends with a blank, which counts as part of it; remove the blank"
    if len(password) > 1 and password[:1] == password[-1:] and password[:1] in (b"'", b'"'):
        return "the password in the file stands in quotes, which count as part of it; remove them"
    return None
