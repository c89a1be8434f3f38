"""What the proxy refused while a program ran: programs do not show the answer to CONNECT. Does I/O: asks the admin site."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from proxy.config.addresses import parse_listen_address
from proxy.explanations.lookup import advise
from proxy.identity.aadsts import explain, parse_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.settings import AdminSettings

_PATIENCE_S: Final = 1.0
# An exchange is on the page up to this long after its end; who fails is worth waiting for.
_LATE_S: Final = 0.6
_PAUSE_S: Final = 0.1
_MOST_HOSTS: Final = 10
# Access lines have whole milliseconds.
_ROUNDED_S: Final = 0.001
_CONTENT_BYTES: Final = 4_194_304


@dataclass(frozen=True, slots=True)
class Watch:
    """An admin site, and since when its exchanges count.

    Attributes:
        host, port: of the site.
        token: opens it; empty for none.
        since: Unix seconds by the proxy's clock.
    """

    host: str
    port: int
    token: str
    since: float

    def list_refusals(self, *, has_failed: bool) -> list[str]:
        """Return a line for each host for which the proxy answered with an error of its own since.

        Args:
            has_failed: whether the program did; then what comes late is waited for.
        """
        give_up_at = time.monotonic() + (_LATE_S if has_failed else 0)
        while True:
            found: dict[str, str] = {}
            for host, words in self._ask():
                found.setdefault(host, words)
            if found or time.monotonic() >= give_up_at:
                return [f"{host or 'a client'}: {words}" for host, words in list(found.items())[:_MOST_HOSTS]]
            time.sleep(_PAUSE_S)

    def _ask(self) -> Iterator[tuple[str, str]]:
        """Yield host and reason of each refusal that the page knows of, the oldest first."""
        events = _read_events(self.host, self.port, self.token)
        # A proxy of another version may say it in another way: what cannot be read is left out.
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            for error in reversed(events.get("state", {}).get("errors", [])):
                if error["at"] >= self.since:
                    authority = error["what"].partition("/")[0]
                    yield authority, _describe(error["status"], error["error"], error["code"])
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            for line in events.get("exchanges", []):
                at = datetime.fromisoformat(line["time"]).timestamp()
                is_refusal = line["outcome"] != "ok" and not line["outcome"].startswith("aborted_")
                if at >= self.since - _ROUNDED_S and is_refusal:
                    authority = line["authority"] or ""
                    yield authority, _describe(line["status"] or 0, line["outcome"], line["code"] or "")


def begin_watch(admin: AdminSettings | None) -> Watch | None:
    """Return a watch from now on; None where there is no admin site to ask, or it is not open to us."""
    address = None if admin is None else parse_listen_address(admin.address)
    if admin is None or address is None or address.port == 0:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  # to be asked, not bound
    token = ""
    with contextlib.suppress(OSError, ValueError):
        token = "" if admin.token_file is None else admin.token_file.read_text(encoding="utf-8").strip()
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        connection, answer = _get(host, address.port, token, "/api/state")
        with contextlib.closing(connection):
            return Watch(host, address.port, token, float(json.loads(answer.read(_CONTENT_BYTES))["at"]))
    return None


def _read_events(host: str, port: int, token: str) -> dict[str, Any]:
    """Return the first of each kind of event that the page's stream begins with; empty where it cannot be read."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection, answer = _get(host, port, token, "/api/events")
        with contextlib.closing(connection):
            name = ""
            while "state" not in found and (line := answer.readline(_CONTENT_BYTES)):
                if line.startswith(b"event: "):
                    name = line[7:].decode("ascii").strip()
                elif line.startswith(b"data: "):
                    found.setdefault(name, json.loads(line[6:]))
    return found


def _get(host: str, port: int, token: str, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE_S)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    if answer.status != http.HTTPStatus.OK:
        connection.close()
        raise http.client.HTTPException
    return connection, answer


def _describe(status: int, outcome: str, code: str) -> str:
    number = parse_code(code)
    found = (explain(number) if number is not None else None) or advise(status, outcome, code)
    said = f"{status} {code or outcome}" if status else code or outcome
    return f"{said}. {found.cause} {found.fix}" if found is not None else f"{said}."
