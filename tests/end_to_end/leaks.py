"""Looks for secrets in what the product printed: while a session runs, and at its end in all of it. Reads files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from tests.end_to_end.programs import PRINTED, SAID

if TYPE_CHECKING:
    from pathlib import Path

Secrets: TypeAlias = "dict[str, str]"

# Any JWT, and any part of one that begins at its beginning: access tokens, client assertions. RFC 7515 §3.1.
JWT = re.compile(r"eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*)*")


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
