"""Holds the proxy's access log against what its clients have seen, exchange by exchange. Pure: does no I/O."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.soak.journal import Account

_PREFIX: Final = "/soak/"


def compare(accounts: Mapping[str, Account], tunnels: int, counted: int, lines: Iterable[str]) -> Iterator[str]:
    """Says where the access log does not agree.

    Args:
        accounts: what each exchange has come to, by identifier.
        tunnels: how many blind ones were opened.
        counted: exchanges in the proxy's metrics.
        lines: the log, in JSON.
    """
    found: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    for line in lines:
        entry = json.loads(line)
        if entry["mode"] == "connect" and entry["method"] == "CONNECT":
            continue  # a TLS handshake that the client gave up: no exchange
        modes[entry["mode"]] += 1
        path = entry["path"] or ""
        if not path.startswith(_PREFIX):
            continue
        name = path.removeprefix(_PREFIX)
        found[name] += 1
        account = accounts.get(name)
        if account is None:
            yield f"the access log has an exchange that no client made: {line.rstrip()}"
        elif account.status and not _agrees(account, entry["status"], entry["sent_bytes"], entry["outcome"]):
            yield f"the client saw {account}, the access log says: {line.rstrip()}"
    for name, times in found.items():
        if times > 1:
            yield f"the access log has {name} {times} times"
    for name, account in accounts.items():
        if (account.reached or account.status) and name not in found:
            yield f"the access log lacks {name}: {account}"
    if modes["tunnel"] != tunnels:
        yield f"the access log has {modes['tunnel']} blind tunnels, {tunnels} were opened"
    if modes.total() != counted:
        yield f"the access log has {modes.total()} lines, the metrics count {counted} exchanges"


def _agrees(account: Account, status: int | None, sent_bytes: int, outcome: str) -> bool:
    if status != account.status:
        return False
    return account.content_bytes is None or (outcome == "ok" and sent_bytes == account.content_bytes)
