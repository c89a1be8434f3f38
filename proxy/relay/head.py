"""Request and response heads: bytes in, validated heads out, and back to bytes again. Pure: does no I/O.

llhttp (through httptools) judges the field lines and refuses everything RFC 9112 lets a recipient refuse; this module adds
what llhttp leaves to its user: one framing a message, one Host, limits. A head that passed is written again from the
client's own field lines, byte for byte, less those that end at this hop.

llhttp is fed a start line of ours in place of the message's own, because it knows a fixed list of methods and rejects
targets with bytes above 0x7f, and because a start line is what makes it guess about bodies and upgrades. So the start line
is matched here, against the grammar of RFC 9112 §3 and §4, and each parser lives for one head.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import httptools

from proxy.errors import FieldsTooLarge, MalformedRequest, TargetTooLong, UpstreamProtocolError
from proxy.policy import probe
from proxy.relay.field_faults import describe_bad_field
from proxy.relay.plain_form import write_plainly

# RFC 9110 §5.6.2 token; any byte but space, controls and "#" in a target: what is legal there is the upstream's to say.
# No registered method has more than 18 letters; an end to it lets a client hear at once that it speaks something else.
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ([^\x00-\x20\x7f#]+) HTTP/1\.([01])\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_LENGTH_DIGITS: Final = 18
_LENGTH_LINE: Final = len(b"Content-Length: ")
_SPACE: Final = 0x20
_ZERO: Final = 0x30
_ONE: Final = 0x31

# RFC 9110 §7.6.1: fields that speak of one connection, so they never pass from one side to the other.
HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
        b"http2-settings",
    )
)
# What Connection may not nominate away: framing, routing and what the proxy itself sets (RFC 9110 §7.6.1).
_NEVER_NOMINATED: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"trailer", b"authorization"))
_REQUEST_SPECIAL: Final = frozenset(
    (
        b"host",
        b"connection",
        b"proxy-connection",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"upgrade",
        b"te",
        b"proxy-authorization",
    )
)
_RESPONSE_SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"transfer-encoding", b"www-authenticate"}
_KNOWN_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))
_NOTHING: Final[frozenset[bytes]] = frozenset()
_FRAMING: Final = (
    "The message is framed in two ways at once, or by a coding its version does not have (RFC 9112 §6.1, §6.3)."
)

_REQUEST_START: Final = b"POST / HTTP/1.1\r\n"
_RESPONSE_START: Final = b"HTTP/1.1 200 \r\n"


class Head:
    """What request and response heads have in common.

    Most messages set few of these, so what is rarely set is a class attribute until it is.

    Attributes:
        minor: of HTTP/1.x, 0 or 1.
        names: the fields' names in lower case, in order.
        fields: the field lines as sent, each with its CRLF.
        length: Content-Length in bytes; None without one.
        chunked: whether the content is framed by the chunked coding.
        keeps_alive: whether the sender will use the connection again (RFC 9112 §9.3).
        nominated: lower-case names that Connection declares to be hop-by-hop, beyond the known ones.
    """

    length: int | None = None
    chunked = False
    nominated = _NOTHING
    _lines: list[bytes] | None = None

    def __init__(self, minor: int, fields: bytes) -> None:
        self.minor = minor
        self.names: list[bytes] = []
        self.fields = fields
        self.keeps_alive = minor == 1

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: ARG002  # llhttp's signature
        """Take one field that llhttp has approved; its line stands in `fields`."""
        self.names.append(name.lower())

    @property
    def lines(self) -> list[bytes]:
        """The field lines as sent, without CRLF, one for each of `names`."""
        if self._lines is None:
            self._lines = self.fields.split(b"\r\n")[:-1]
        return self._lines

    def value(self, name: bytes) -> bytes:
        """Return the value of the first field with a name that is among `names`."""
        return self.lines[self.names.index(name)][len(name) + 1 :].strip(b" \t")

    def values(self, wanted: bytes) -> list[bytes]:
        """Return the values of all fields with a name, in order."""
        skip = len(wanted) + 1
        return [line[skip:].strip(b" \t") for name, line in zip(self.names, self.lines, strict=True) if name == wanted]

    def take_framing(self, special: frozenset[bytes]) -> None:
        """Read Content-Length and Transfer-Encoding, where they are among the message's `special` names.

        A way to write them that some recipient could read in another way is replaced by the plain one.

        Raises:
            MalformedRequest: the message could be read as ending in two places.
        """
        # llhttp has refused a second Content-Length, lists and signs.
        if b"content-length" in special:
            line = self.lines[self.names.index(b"content-length")]
            digits = line[15:].strip(b" \t")
            if len(digits) > _LENGTH_DIGITS:
                raise MalformedRequest("Content-Length has more digits than any message needs (RFC 9110 §8.6).")
            self.length = int(digits)
            if (
                len(line) != _LENGTH_LINE + len(digits)
                or line[15] != _SPACE
                or (digits[0] == _ZERO and len(digits) > 1)
            ):
                self._write_plainly(line, line[:15] + b" %d" % self.length)
        if b"transfer-encoding" in special:
            # Other codings are refused: none is in use, and each is a way to disagree about where a message ends.
            # llhttp lets a response name chunked twice.
            line = self.lines[self.names.index(b"transfer-encoding")]
            if self.names.count(b"transfer-encoding") > 1 or line[18:].strip(b" \t").lower() != b"chunked":
                raise MalformedRequest("Transfer-Encoding is not exactly 'chunked', the only coding this proxy relays.")
            if self.length is not None or self.minor == 0:
                raise MalformedRequest(_FRAMING)
            self.chunked = True
            if line[18:] != b" chunked":
                self._write_plainly(line, line[:18] + b" chunked")

    def _write_plainly(self, line: bytes, plain: bytes) -> None:
        """Has a field line written with one space before the value and nothing behind it."""
        self._lines = [plain if one is line else one for one in self.lines]
        self.fields = b"\r\n".join(self._lines) + b"\r\n"

    def take_connection(self, name: bytes) -> frozenset[bytes]:
        """Read the Connection field: who keeps the connection, and what ends here. Return its options."""
        value = self.value(name) if self.names.count(name) == 1 else b",".join(self.values(name))
        options, self.nominated = _read_options(value)
        self.keeps_alive = b"close" not in options if self.minor else b"keep-alive" in options
        return options


class RequestHead(Head):
    """A validated request head.

    Attributes:
        method: as sent; methods are case-sensitive (RFC 9110 §9.1).
        target: the request target as sent (RFC 9112 §3.2).
        host: the Host field's value; None without one.
        upgrade: the Upgrade field's value where Connection nominates it; None otherwise.
        expects_continue: whether the client waits for a 100 response before it sends content.
        accepts_trailers: whether TE says so.
        proxy_authorization: the field's value; None without one.
    """

    host: bytes | None = None
    upgrade: bytes | None = None
    expects_continue = False
    accepts_trailers = False
    proxy_authorization: bytes | None = None

    def __init__(self, method: bytes, target: bytes, minor: int, fields: bytes) -> None:
        Head.__init__(self, minor, fields)
        self.method = method
        self.target = target

    @property
    def has_content(self) -> bool:
        """Whether content follows the head (RFC 9112 §6.3: a request without either field has none)."""
        return self.chunked or bool(self.length)

    def take_special(self, special: frozenset[bytes]) -> None:
        """Read the fields that the relay decides by.

        Raises:
            MalformedRequest: they contradict each other.
        """
        if b"host" in special:
            self.host = self._only(b"host")
            if len(special) == 1:
                return
        elif self.minor == 1:
            raise MalformedRequest("The request has no Host field, which HTTP/1.1 requires (RFC 9112 §3.2).")
        self.take_framing(special)
        # Proxy-Connection is what clients of the nineties say instead.
        for name in (b"connection", b"proxy-connection"):
            if name in special:
                options = self.take_connection(name)
                # RFC 9110 §7.8: Upgrade in a request of HTTP/1.0 is to be ignored.
                if b"upgrade" in options and b"upgrade" in special and self.minor:
                    self.upgrade = self.value(b"upgrade")
                break
        if b"expect" in special:
            self.expects_continue = self.value(b"expect").lower() == b"100-continue"
        if b"te" in special:
            self.accepts_trailers = b"trailers" in self.value(b"te").lower()
        if b"proxy-authorization" in special:
            self.proxy_authorization = self._only(b"proxy-authorization")

    def _only(self, name: bytes) -> bytes:
        if self.names.count(name) > 1:
            raise MalformedRequest(
                f"The request has more than one {name.decode('ascii').title()} field (RFC 9110 §5.3). Send exactly one."
            )
        return self.value(name)


class ResponseHead(Head):
    """A validated response head.

    Attributes:
        status: the status code, 100 to 999.
        status_line: as it goes to the client: the upstream's own, in the proxy's HTTP version, with CRLF.
        hop_by_hop: whether any field line ends at this hop.
        challenges: the values of WWW-Authenticate, in order.
    """

    hop_by_hop = False

    def __init__(self, status: int, status_line: bytes, minor: int, fields: bytes) -> None:
        Head.__init__(self, minor, fields)
        self.status = status
        self.status_line = status_line

    @property
    def challenges(self) -> list[bytes]:
        """The values of WWW-Authenticate, in order."""
        return self.values(b"www-authenticate")

    def take_special(self, special: frozenset[bytes]) -> None:
        """Read the fields that the relay decides by.

        Raises:
            MalformedRequest: they contradict each other; the caller knows that it was a response.
        """
        self.take_framing(special)
        if (self.status < 200 or self.status == 204) and (self.chunked or self.length):
            raise MalformedRequest("A response that has no content declares some (RFC 9112 §6.3).")
        self.hop_by_hop = not HOP_BY_HOP.isdisjoint(special)
        if b"connection" in special:
            self.take_connection(b"connection")


@lru_cache(maxsize=64)
def _read_options(value: bytes) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the options of a Connection field, and those of them that name fields which end at this hop."""
    options = frozenset(option.strip(b" \t") for option in value.lower().split(b","))
    return options, options - HOP_BY_HOP - _NEVER_NOMINATED - _KNOWN_OPTIONS


def parse_request_head(raw: bytes, *, target_bytes: int, field_count: int) -> RequestHead:
    """Validate a request head.

    Args:
        raw: everything up to and including the empty line.
        target_bytes: the longest request target accepted.
        field_count: the most field lines accepted.

    Raises:
        MalformedRequest: not HTTP/1.x, or not safe to pass on.
        TargetTooLong: the target is over `target_bytes`.
        FieldsTooLarge: there are more than `field_count` field lines.

    Source: RFC 9112 §2 to §6.
    """
    match = _REQUEST_LINE.match(raw)
    if match is None:
        raise refuse_request(raw)
    method, target, minor = match.groups()
    if len(target) > target_bytes:
        raise TargetTooLong(
            f"The request target has {len(target)} bytes; the limit is {target_bytes} (limits.target_bytes)."
        )
    rest = raw[match.end() :]
    head = RequestHead(method, target, 1 if minor == b"1" else 0, rest[:-2])
    try:
        httptools.HttpRequestParser(head).feed_data(_REQUEST_START + rest)
    except httptools.HttpParserUpgrade:
        pass  # llhttp stops where an upgrade would begin: at the end of the head, which is all it was given
    except httptools.HttpParserError:
        raise refuse_request(raw) from None
    names = head.names
    if len(names) > field_count:
        raise FieldsTooLarge(f"The request has {len(names)} fields; the limit is {field_count} (limits.field_count).")
    head.take_special(_REQUEST_SPECIAL.intersection(names))
    return head


@lru_cache(maxsize=64)
def _read_status_line(line: bytes) -> tuple[int, int, bytes] | None:
    """Return status code, minor version and the line in the proxy's own version; None where it is no status line."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        return None
    minor = 1 if line[7] == _ONE else 0
    return int(match[1]), minor, line if minor else b"HTTP/1.1" + line[8:]


def parse_response_head(raw: bytes, *, field_count: int, to_head: bool = False) -> ResponseHead:
    """Validate a response head.

    One that is not in the plain form, but can be read in one way only, is taken in that form; its connection is not kept.

    Args:
        raw: everything up to and including the empty line.
        field_count: the most field lines accepted.
        to_head: whether it answers a HEAD request.

    Raises:
        UpstreamProtocolError: not HTTP/1.x, or it could make the client misjudge where the response ends.

    Source: RFC 9112 §4 to §6.
    """
    end = raw.find(b"\r\n") + 2
    start = _read_status_line(raw[:end])
    if start is None:
        raise UpstreamProtocolError(diagnose_head(raw, request=False))
    rest = raw[end:]
    try:
        head = _read_response_head(start, rest)
    except (httptools.HttpParserError, MalformedRequest) as error:
        fields = rest[:-2]
        plain = write_plainly(fields, start[0], start[1], to_head=to_head)
        if plain == fields:
            raise UpstreamProtocolError(_describe(error, raw)) from None
        try:
            head = _read_response_head(start, plain + b"\r\n")
        except (httptools.HttpParserError, MalformedRequest):
            raise UpstreamProtocolError(_describe(error, raw)) from None
        head.keeps_alive = False
    if len(head.names) > field_count:
        raise UpstreamProtocolError(
            f"The response has {len(head.names)} fields; the limit is {field_count} (limits.field_count)."
        )
    return head


def _read_response_head(start: tuple[int, int, bytes], rest: bytes) -> ResponseHead:
    """Read the fields of a response, up to and including the empty line.

    Raises:
        httptools.HttpParserError, MalformedRequest: they are not in the plain form.
    """
    status, minor, status_line = start
    head = ResponseHead(status, status_line, minor, rest[:-2])
    httptools.HttpResponseParser(head).feed_data(_RESPONSE_START + rest)
    special = _RESPONSE_SPECIAL.intersection(head.names)
    if special:
        head.take_special(special)
    return head


def _describe(error: Exception, raw: bytes) -> str:
    return error.detail if isinstance(error, MalformedRequest) else diagnose_head(raw, request=False)


def format_request_head(
    head: RequestHead, target: bytes, host: bytes, drop: frozenset[bytes], added: bytes, *, upgrades: bool
) -> bytes:
    """Write a request head for the upstream, ending with the empty line.

    Args:
        head: what the client sent.
        target: the request target in origin-form (or ``*``).
        host: the Host field's value for this upstream.
        drop: lower-case names of fields that do not pass, the hop-by-hop ones included.
        added: complete field lines with CRLF, put behind the client's.
        upgrades: whether the client's Upgrade passes (RFC 9110 §7.8).
    """
    if head.nominated:
        drop |= head.nominated
    if drop.isdisjoint(head.names):
        fields = head.fields
        if head.host != host:
            fields = b"\r\n".join(_with_host(head, host, drop)) + b"\r\n"
    else:
        kept = _with_host(head, host, drop) if head.host != host else _without(head, drop)
        fields = b"\r\n".join(kept) + b"\r\n" if kept else b""
    if upgrades and head.upgrade is not None:
        fields += b"Connection: Upgrade\r\nUpgrade: " + head.upgrade + b"\r\n"
    elif head.accepts_trailers:
        fields += b"Connection: TE\r\nTE: trailers\r\n"
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (head.method, target, fields, added)


def _without(head: Head, drop: frozenset[bytes]) -> list[bytes]:
    """Return the field lines whose names are not to be dropped."""
    lines = head.lines
    return [lines[index] for index, name in enumerate(head.names) if name not in drop]


def _with_host(head: RequestHead, host: bytes, drop: frozenset[bytes]) -> list[bytes]:
    """Return the kept field lines with the Host field of this upstream, where the client's stood or else first."""
    line = b"Host: " + host
    lines = head.lines
    kept = [line if name == b"host" else lines[index] for index, name in enumerate(head.names) if name not in drop]
    return kept if head.host is not None else [line, *kept]


def format_response_head(head: ResponseHead, connection: bytes, *, chunked: bool) -> bytes:
    """Write a response head for the client, ending with the empty line.

    Args:
        head: what the upstream sent.
        connection: a complete Connection field line with CRLF, or nothing.
        chunked: whether a chunked response stays so; False for an HTTP/1.0 client, which does not know the coding.
    """
    fields = head.fields
    if head.hop_by_hop or not chunked:
        drop = HOP_BY_HOP | head.nominated if head.nominated else HOP_BY_HOP
        if not chunked:
            drop |= {b"transfer-encoding", b"trailer"}
        kept = _without(head, drop)
        fields = b"\r\n".join(kept) + b"\r\n" if kept else b""
    return b"%b%b%b\r\n" % (head.status_line, fields, connection)


_START_OF_REQUEST: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}(?: [^\x00-\x20\x7f]*(?: [HTP/1.0]{0,8}\r?)?)?"
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


def check_partial_request(raw: bytes, checked: int = 0) -> None:
    """Refuses bytes that no continuation can make a request head, so that a client that speaks something else hears at once.

    Args:
        raw: the head as far as it has come.
        checked: how many of these bytes have been checked before. Only the others are looked at, so that a head costs the same
            in however many pieces it comes.

    Raises:
        MalformedRequest: waiting for more would be in vain.
    """
    end = raw.find(b"\r\n")
    if end < 0:
        hopeless = _START_OF_REQUEST.fullmatch(raw) is None
    elif end + 2 > checked:
        hopeless = _REQUEST_LINE.fullmatch(raw[: end + 2]) is None
    else:
        hopeless = False
    if hopeless or _has_bad_bytes(raw, checked):
        raise refuse_request(raw)


def check_partial_response(raw: bytes, checked: int = 0) -> None:
    """Refuses bytes that no continuation can make a response head, so that nobody waits for its end in vain.

    Args:
        raw: the head as far as it has come.
        checked: as for `check_partial_request`.

    Raises:
        UpstreamProtocolError: waiting for more would be in vain.
    """
    end = raw.find(b"\r\n")
    if end < 0:
        hopeless = not raw.startswith(b"HTTP/1."[: len(raw)])
    elif end + 2 > checked:
        hopeless = _STATUS_LINE.fullmatch(raw[: end + 2]) is None
    else:
        hopeless = False
    if hopeless or _has_bad_bytes(raw, checked):
        raise UpstreamProtocolError(diagnose_head(raw, request=False))


def _has_bad_bytes(raw: bytes, checked: int) -> bool:
    # Whether the last byte checked was right may depend on the next one: a CR on its LF.
    new = raw[max(checked - 2, 0) :] if checked else raw
    # The first byte of a piece may be the LF of a CR that is not in it.
    return bool(_CONTROL.search(new) or _BARE.search(new, 1 if checked > 2 and new[:1] == b"\n" else 0))


def refuse_other_protocol(raw: bytes) -> MalformedRequest | None:
    """Return the error for bytes of another protocol than HTTP/1.x, where it is known by its first bytes."""
    for start, code, words in _OTHER_PROTOCOLS:
        if raw.startswith(start):
            return MalformedRequest(words, code=code)
    return None


def refuse_request(raw: bytes) -> MalformedRequest:
    """Return the error for bytes that are no request head; its code names another protocol, whose clients cannot read us."""
    other = refuse_other_protocol(raw)
    if other is not None:
        return other
    fault = _find_unencoded(raw)
    if fault:
        return MalformedRequest(fault, code="target_not_encoded")
    return MalformedRequest(diagnose_head(raw, request=True))


def _find_unencoded(raw: bytes) -> str:
    """Says which character of a request target should have been percent-encoded; nothing where that is not the fault."""
    line, end, _ = raw.partition(b"\r\n")
    match = _ANY_TARGET.fullmatch(line)
    if match is None or (end and match[2] is None):
        return ""
    target = match[1]
    if b" " in target or b"\t" in target:
        return "The URL has a blank in it. Encode it as %20 (RFC 3986 §2.1)."
    if b"#" in target:
        return "The URL has a '#' in it. Leave out the fragment, or encode the '#' as %23 if it is part of the path."
    return ""


def diagnose_head(raw: bytes, *, request: bool) -> str:
    """Says in words why a head was refused. Slow, and called only then; of what was received it quotes names of fields only."""
    what = "request" if request else "response"
    for pattern, words in _FAULTS:
        if pattern.search(raw):
            return f"The {what} head has {words}."
    start = _REQUEST_LINE if request else _STATUS_LINE
    if not start.match(raw):
        return f"The first line is not an HTTP/1.x {'request' if request else 'status'} line (RFC 9112 §{3 if request else 4})."
    return describe_bad_field(raw.partition(b"\r\n")[2], what)


# A request line that is sound but for its target; or, before its end has come, its beginning.
_ANY_TARGET: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} ((?:/|[A-Za-z][A-Za-z0-9+.\-]*://)[^\x00-\x08\x0a-\x1f\x7f]*?)( HTTP/1\.[01])?"
)
_PROXY_PROTOCOL: Final = (
    "The PROXY protocol came in front of the request, and there is no PROXY protocol here. Switch it off at the load balancer "
    "for this listener (`send-proxy` in HAProxy, `proxy_protocol` in nginx)."
)
_SOCKS: Final = "This is an HTTP proxy, and a SOCKS client has come. Use http:// in place of socks4:// or socks5://."
_OTHER_PROTOCOLS: Final = (
    (
        b"\x16\x03",  # RFC 8446 §5.1
        "tls_on_plain_port",
        "This port speaks plain HTTP, and a TLS handshake arrived. Use http:// in the proxy's own URL.",
    ),
    (probe.QUESTION, "probe", "This is a listener of apim-auth-proxy."),
    (b"\x05", "socks", _SOCKS),  # RFC 1928 §3
    (b"\x04", "socks", _SOCKS),
    (b"PROXY TCP", "proxy_protocol", _PROXY_PROTOCOL),
    (b"PROXY UNKNOWN", "proxy_protocol", _PROXY_PROTOCOL),
    (b"\x00\r\nQUIT\n", "proxy_protocol", _PROXY_PROTOCOL),  # version 2, whose signature begins with two empty lines
    (b"\r\n\r\n\x00\r\nQUIT\n", "proxy_protocol", _PROXY_PROTOCOL),
    (b"PRI * HTTP/2.0", "http2", "HTTP/2 is not spoken on this port. Use HTTP/1.1."),  # RFC 9113 §3.4
)
_FAULTS: Final = (
    (re.compile(rb"\A\r\n[ \t]|\n[ \t]+[^\r\n]"), "a folded field line, which RFC 9112 §5.2 forbids"),
    (_BARE, "a bare CR or LF; lines end with CRLF (RFC 9112 §2.2)"),
)
