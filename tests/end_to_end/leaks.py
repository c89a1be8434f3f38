"""Looks for secrets in what the product printed: while a session runs, and at its end in all of it. Reads files.

A run of several test processes is as many sessions, and each of them searches what it printed for what it knew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from tests.end_to_end.programs import PRINTED, SAID

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Secrets: TypeAlias = "dict[str, str]"

# Any JWT, and any part of one that begins at its beginning: access tokens, client assertions. RFC 7515 §3.1.
# Not in the middle of Base64, where one in some thousand certificates has these letters by chance; but behind escapes.
JWT = re.compile(r"(?:(?<![A-Za-z0-9+/_-])|(?<=%20)|(?<=%3D)|(?<=\\[nrt]))eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*)*")

# Every secret of the session, by what it is. Whoever makes one adds it; lines of keys by `learn_key`.
KNOWN: Secrets = {}


def learn_key(name: str, pem: str) -> None:
    """Adds the lines of private keys in a PEM text; one of them is enough to recognise a key by."""
    KNOWN.update({f"line {number} of {name}": line for number, line in enumerate(_key_lines(pem))})


def _key_lines(pem: str) -> Iterable[str]:
    for key in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", pem, re.DOTALL):
        # The first line of a PKCS#8 key is the same for all keys of a kind.
        yield from (line for line in key.split()[1:] if len(line) > 40)


def find_secrets(text: str, secrets: Secrets) -> list[str]:
    """Returns what kinds of secrets a text holds, never the secrets."""
    found = [what for what, secret in secrets.items() if secret in text]
    found += ["a JWT"] if JWT.search(text) else []
    return found + (["a PEM private key"] if "PRIVATE KEY-----" in text else [])


def search_everything(evidence: Path, secrets: Secrets) -> dict[str, list[str]]:
    """Searches all that proxies, sandboxes and other commands have printed in this process's session.

    Returns:
        What kinds of secrets were found, by where.
    """
    files = {path for path in (*PRINTED, *evidence.iterdir()) if path.is_file()}
    texts = [(f"{path.parent.name}/{path.name}", path.read_text("utf-8", "replace")) for path in files]
    texts += [(f"apim-auth-proxy {command}, {number}", text) for number, (command, text) in enumerate(SAID)]
    return {name: found for name, text in texts if (found := find_secrets(text, secrets))}
