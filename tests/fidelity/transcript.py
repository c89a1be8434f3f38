"""What one exchange looked like at both of its ends, and in few words how two of those differ. Pure.

The yardstick is the same exchange without a proxy. Left out on both sides is what RFC 9110 §7.6.1 gives to each hop, and where
chunks are cut (RFC 9112 §7.1). Nothing here is the product's, and no words are kept for any proxy: they come out of the bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from tests.wire.messages import Head, Incomplete, name_of, split_head

# Connection is each hop's own; the others of this kind have no business on the next one.
OWN_OF_EACH_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection"})
FOR_ONE_HOP: Final = OWN_OF_EACH_HOP | {
    b"te",
    b"upgrade",
    b"http2-settings",
    b"proxy-authorization",
    b"proxy-authenticate",
}
FRAMING: Final = (b"content-length", b"transfer-encoding")
_LONGEST_TARGET: Final = 24
_MOST_NAMES: Final = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived.

    Attributes:
        head: start line and field lines.
        content: without its framing.
        trailers: trailer lines.
        is_extended: whether a chunk had extensions.
        is_complete: whether its end arrived.
    """

    head: Head
    content: bytes = b""
    trailers: tuple[bytes, ...] = ()
    is_extended: bool = False
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class Transcript:
    """One exchange, seen from both ends.

    Attributes:
        request: what the upstream received; None: nothing.
        interim: the heads of the interim responses that the client received.
        response: what the client received; None: nothing.
        facts: of an exchange in steps, what became of each step.
    """

    request: Message | None = None
    interim: tuple[Head, ...] = ()
    response: Message | None = None
    facts: dict[str, str] = field(default_factory=dict)


def read_message(raw: bytes, *, ended: bool, is_request: bool, has_content: bool = True) -> Message:
    """Reads one message.

    Args:
        raw: what has arrived.
        ended: whether no more will.
        is_request: a request without framing has no content, a response without it lasts until the end.
        has_content: False for what answers HEAD.

    Raises:
        Incomplete: the head has not arrived.
    """
    head, body = split_head(raw)
    if not has_content or (not is_request and head.status in (204, 304)):
        return Message(head)
    if head.is_chunked:
        return _read_chunked(head, body)
    lengths = head.values(b"content-length")
    if lengths:
        size = int(lengths[0])
        return Message(head, body[:size], is_complete=len(body) >= size)
    return Message(head) if is_request else Message(head, body, is_complete=ended)


def _read_chunked(head: Head, raw: bytes) -> Message:
    content, extended = b"", False
    trailers: list[bytes] = []
    while True:
        line, end, raw = raw.partition(b"\r\n")
        if not end:
            return Message(head, content, (), extended, is_complete=False)
        digits, semicolon, _ = line.partition(b";")
        extended |= bool(semicolon)
        size = int(digits, 16)
        if size == 0:
            break
        content, raw = content + raw[:size], raw[size + 2 :]
    while True:
        line, end, raw = raw.partition(b"\r\n")
        if not end or not line:
            return Message(head, content, tuple(trailers), extended, is_complete=bool(end))
        trailers.append(line)


def read_responses(raw: bytes, *, ended: bool, has_content: bool = True) -> tuple[tuple[Head, ...], Message | None]:
    """Reads interim responses, and the final one as far as it has arrived; None before its head."""
    interim: list[Head] = []
    try:
        while True:
            head, rest = split_head(raw)
            if head.status >= 200 or head.status == 101:
                return tuple(interim), read_message(raw, ended=ended, is_request=False, has_content=has_content)
            interim.append(head)
            raw = rest
    except Incomplete:
        return tuple(interim), None


def describe_direct(direct: Transcript) -> str:
    """What happened without a proxy, in a few words: what each other way is held against."""
    if direct.facts:
        return "; ".join(f"{step} {what}" for step, what in direct.facts.items())
    words = [str(head.status) for head in direct.interim]
    if direct.response is not None:
        words.append(str(direct.response.head.status))
    return ", then ".join(words)


def describe_differences(direct: Transcript, through: Transcript) -> list[str]:
    """What differs between two ways of the same exchange, the first being without a proxy; empty: nothing."""
    if direct.facts or through.facts:
        return [f"{step} {what}" for step, what in through.facts.items() if direct.facts.get(step) != what]
    if through.request is None:
        return [_describe_refusal(through)]
    assert direct.request is not None
    found = [f"request: {words}" for words in _compare_requests(direct.request, through.request)]
    if through.response is None:
        return [*found, "response: none"]
    assert direct.response is not None
    found += [f"response: {words}" for words in _compare_interim(direct.interim, through.interim)]
    return found + [f"response: {words}" for words in _compare_responses(direct.response, through.response)]


def _describe_refusal(through: Transcript) -> str:
    return "no answer" if through.response is None else f"answers {through.response.head.status} itself"


def _compare_requests(direct: Message, through: Message) -> list[str]:
    found = []
    (method, target, version), (method_then, target_then, version_then) = (
        message.head.start.split(b" ") for message in (direct, through)
    )
    if method_then != method:
        found.append(f"method {_show(method)} became {_show(method_then)}")
    if target_then != target:
        found.append(_describe_target(target, target_then))
    found += _compare_versions(version, version_then)
    return found + _compare_messages(direct, through)


def _describe_target(target: bytes, then: bytes) -> str:
    if max(len(target), len(then)) <= _LONGEST_TARGET:
        return f"`{_show(target)}` became `{_show(then)}`"
    return "target changed"


def _compare_interim(direct: tuple[Head, ...], through: tuple[Head, ...]) -> list[str]:
    before, then = [head.status for head in direct], [head.status for head in through]
    if before == then:
        return [f"{a.status}: {words}" for a, b in zip(direct, through, strict=True) for words in _compare_heads(a, b)]
    lost = [str(status) for status in before if status not in then]
    added = [str(status) for status in then if status not in before]
    return [
        *([f"{', '.join(lost)} not passed on"] if lost else []),
        *([f"{', '.join(added)} added"] if added else []),
        *([] if lost or added else ["interim responses in another order or number"]),
    ]


def _compare_responses(direct: Message, through: Message) -> list[str]:
    found = []
    if through.head.status != direct.head.status:
        return [f"{through.head.status} in place of {direct.head.status}"]
    reason, reason_then = direct.head.start[13:], through.head.start[13:]
    if reason_then != reason:
        if not reason_then:
            found.append("reason phrase dropped")
        elif not reason:
            found.append("reason phrase added")
        else:
            found.append("reason phrase changed")
    found += _compare_versions(direct.head.start[:8], through.head.start[:8])
    return found + _compare_messages(direct, through)


def _compare_versions(version: bytes, then: bytes) -> list[str]:
    """Each hop says its own version (RFC 9112 §2.3), so only a lower one is a loss."""
    return [f"sent as {_show(then)}"] if then < version else []


def _compare_messages(direct: Message, through: Message) -> list[str]:
    found = _compare_heads(direct.head, through.head)
    if through.is_extended != direct.is_extended:
        found.append("chunk extensions dropped" if direct.is_extended else "chunk extensions added")
    if through.content != direct.content:
        found.append("content cut" if direct.content.startswith(through.content) else "content changed")
    if through.is_complete != direct.is_complete:
        found.append("its end is lost" if direct.is_complete else "ends as if it were complete")
    nominated = _nominated(direct.head)
    trailers = [line for line in direct.trailers if name_of(line) not in FOR_ONE_HOP | nominated]
    then = [line for line in through.trailers if name_of(line) not in OWN_OF_EACH_HOP]
    if trailers and not then:
        found.append("trailers dropped")
    elif trailers != then:
        found += [f"trailer {words}" for words in _compare_lines(trailers, then, list(direct.trailers))]
    return found


def _compare_heads(direct: Head, through: Head) -> list[str]:
    gone = FOR_ONE_HOP | _nominated(direct)
    if b"websocket" in direct.values(b"upgrade"):
        gone -= {b"upgrade"}
    before = [line for line in direct.fields if name_of(line) not in gone]
    then = [line for line in through.fields if name_of(line) not in OWN_OF_EACH_HOP]
    # `TE: trailers` is what any recipient may say in its own name (RFC 9110 §10.1.4).
    then = [line for line in then if line.lower().replace(b" ", b"") != b"te:trailers" or line in before]
    return _compare_lines(before, then, list(direct.fields))


def _nominated(head: Head) -> frozenset[bytes]:
    options = b",".join(head.values(b"connection")).lower().split(b",")
    return frozenset(option.strip() for option in options) - set(FRAMING) - {b"host", b""}


def _compare_lines(before: list[bytes], then: list[bytes], sent: list[bytes]) -> list[str]:
    """Compares field lines; `sent` are those before anything was left out, to tell what is passed on from what is new."""
    if before == then:
        return []
    names = list(dict.fromkeys(map(name_of, (*before, *then))))
    kinds: dict[str, list[bytes]] = {}
    for name in names:
        was, now = ([line for line in lines if name_of(line) == name] for lines in (before, then))
        kind = _compare_field(was, now, is_sent=name in map(name_of, sent))
        if kind:
            kinds.setdefault(kind, []).append((was or now)[0].partition(b":")[0])
    found = _describe_framing(kinds)
    common = [[name for name in map(name_of, lines) if name in _common(before, then)] for lines in (before, then)]
    if [*dict.fromkeys(common[0])] != [*dict.fromkeys(common[1])] or (not kinds and common[0] != common[1]):
        kinds.setdefault("reordered", []).append(b"fields")
    added = [_sentence("added", [field]) for field in kinds.pop("added", ())]
    return found + [_sentence(kind, fields) for kind, fields in kinds.items() if fields] + added


def _common(before: list[bytes], then: list[bytes]) -> set[bytes]:
    return set(map(name_of, before)) & set(map(name_of, then))


def _compare_field(was: list[bytes], now: list[bytes], *, is_sent: bool) -> str:
    """How the lines of one name differ."""
    if was == now:
        return ""
    if not now:
        return "removed"
    if not was:
        return "passed on" if is_sent else "added"
    values, values_now = ([line.partition(b":")[2].strip(b" \t") for line in lines] for lines in (was, now))
    if len(was) != len(now):
        joined = [separator.join(values) for separator in (b", ", b"; ", b",")]
        return "joined into one line" if len(now) == 1 and values_now[0] in joined else "lines removed or added"
    if values != values_now:
        return "value changed"
    if [line.partition(b":")[0] for line in was] != [line.partition(b":")[0] for line in now]:
        return "name written in another case"
    return "white space changed"


def _describe_framing(kinds: dict[str, list[bytes]]) -> list[str]:
    """One framing in place of the other, as one difference; takes those fields out of `kinds`."""
    removed, added = ([name.lower() for name in kinds.get(kind, ())] for kind in ("removed", "added"))
    for lost, gained, words in (
        (b"transfer-encoding", b"content-length", "chunked became a length"),
        (b"content-length", b"transfer-encoding", "a length became chunked"),
    ):
        if lost in removed and gained in added:
            for kind in ("removed", "added"):
                kinds[kind] = [name for name in kinds[kind] if name.lower() not in FRAMING]
            return [words]
    return []


def _sentence(kind: str, names: list[bytes]) -> str:
    if len(names) > _MOST_NAMES:
        return f"{len(names)} fields: {kind}"
    return f"{', '.join(map(_show, names))} {kind}"


def _show(text: bytes) -> str:
    shown = text.decode("latin-1")
    return re.sub(r"[^\x20-\x7e]|[|`\\]", lambda match: f"\\x{ord(match[0]):02x}", shown)
