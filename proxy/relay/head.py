"""Request and response heads: bytes in, validated heads out, and back to bytes again. Pure: does no I/O.

llhttp (through httptools) reads the field lines and refuses everything RFC 9112 lets a recipient refuse; this module adds
what llhttp leaves to its user: one framing a message, one Host, limits. A head that passed is written again from the
client's own field lines, byte for byte, less those that end at this hop.

llhttp is fed a start line of ours in place of the message's own, because it knows a fixed list of methods and rejects
targets with bytes above 0x7f, and because a start line is what makes it guess about bodies and upgrades. So the start line
is matched here, against the grammar of RFC 9112 §3 and §4, and each parser lives for one head.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from proxy.errors import FieldsTooLarge, MalformedRequest, ProxyError, TargetTooLong, UpstreamProtocolError

# RFC 9110 §5.6.2 token; any byte but space, controls and "#" in a target: what is legal there is the upstream's to say.
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^\x00-\x20\x7f#]+) HTTP/1\.([01])\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])( [^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

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
_RESPONSE_SPECIAL: Final = frozenset(
    (b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"upgrade", b"www-authenticate")
)


class RequestHead:
    """A validated request head.

    Attributes:
        method: as sent; methods are case-sensitive (RFC 9110 §9.1).
        target: the request target as sent (RFC 9112 §3.2).
        minor: of HTTP/1.x, 0 or 1.
        names: the fields' names in lower case, in order.
        lines: the field lines as sent, without CRLF, one for each of `names`.
        host: the Host field's value; None without one.
        length: Content-Length in bytes; None without one.
        chunked: whether the content is framed by the chunked coding.
        keeps_alive: whether the client will use the connection again (RFC 9112 §9.3).
        nominated: lower-case names that Connection declares to be hop-by-hop, beyond the known ones.
        upgrade: the Upgrade field's value where Connection nominates it; None otherwise.
        expects_continue: whether the client waits for a 100 response before it sends content.
        accepts_trailers: whether TE says so.
        proxy_authorization: the field's value; None without one.
    """

    __slots__ = (
        "_connection",
        "_upgrade",
        "accepts_trailers",
        "chunked",
        "expects_continue",
        "host",
        "keeps_alive",
        "length",
        "lines",
        "method",
        "minor",
        "names",
        "nominated",
        "proxy_authorization",
        "target",
        "upgrade",
    )

    lines: list[bytes]
    upgrade: bytes | None
    nominated: frozenset[bytes]

    def __init__(self, method: bytes, target: bytes, minor: int) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.names: list[bytes] = []
        self.host: bytes | None = None
        self.length: int | None = None
        self.chunked = False
        self.keeps_alive = minor == 1
        self.expects_continue = False
        self.accepts_trailers = False
        self.proxy_authorization: bytes | None = None
        self._connection: bytes | None = None
        self._upgrade: bytes | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes one field from llhttp; remembers what the relay decides by."""
        name = name.lower()
        self.names.append(name)
        if name in _REQUEST_SPECIAL:
            self._on_special(name, value)

    def _on_special(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            if self.host is not None:
                raise MalformedRequest("The request has more than one Host field (RFC 9112 §3.2). Send exactly one.")
            self.host = value
        elif name == b"connection":
            self._connection = value if self._connection is None else self._connection + b"," + value
        elif name == b"content-length":
            self.length = _parse_length(value)
        elif name == b"transfer-encoding":
            self.chunked = _is_chunked(value)
        elif name == b"upgrade":
            self._upgrade = value
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        elif name == b"te":
            self.accepts_trailers = b"trailers" in value.lower()
        elif name == b"proxy-authorization":
            if self.proxy_authorization is not None:
                raise MalformedRequest("The request has more than one Proxy-Authorization field. Send one.")
            self.proxy_authorization = value
        elif self._connection is None:  # proxy-connection: what clients of the nineties say instead
            self._connection = value

    def settle(self) -> None:
        """Draws the conclusions that need every field.

        Raises:
            MalformedRequest: the fields contradict each other.
        """
        if self.chunked and (self.length is not None or self.minor == 0):
            raise MalformedRequest(_FRAMING)
        if self.host is None and self.minor == 1:
            raise MalformedRequest("The request has no Host field, which HTTP/1.1 requires (RFC 9112 §3.2).")
        self.upgrade = None
        self.nominated = _NOTHING
        if self._connection is not None:
            options = _connection_options(self._connection)
            self.keeps_alive = b"close" not in options if self.minor else b"keep-alive" in options
            if b"upgrade" in options:
                self.upgrade = self._upgrade
            self.nominated = (options - HOP_BY_HOP - _NEVER_NOMINATED) - _KNOWN_OPTIONS

    @property
    def has_content(self) -> bool:
        """Whether content follows the head (RFC 9112 §6.3: a request without either field has none)."""
        return self.chunked or bool(self.length)


class ResponseHead:
    """A validated response head.

    Attributes:
        status: the status code, 100 to 999.
        status_line: as it goes to the client: the upstream's own, in the proxy's HTTP version, without CRLF.
        minor: the upstream's HTTP/1.x version, 0 or 1.
        names, lines: as in `RequestHead`.
        length: Content-Length in bytes; None without one.
        chunked: whether the content is framed by the chunked coding.
        keeps_alive: whether the upstream will take another request on the connection.
        nominated: lower-case names that Connection declares to be hop-by-hop, beyond the known ones.
        hop_by_hop: whether any field line ends at this hop.
        challenges: the values of WWW-Authenticate, in order.
    """

    __slots__ = (
        "_connection",
        "challenges",
        "chunked",
        "hop_by_hop",
        "keeps_alive",
        "length",
        "lines",
        "minor",
        "names",
        "nominated",
        "status",
        "status_line",
    )

    lines: list[bytes]

    def __init__(self, status: int, status_line: bytes, minor: int) -> None:
        self.status = status
        self.status_line = status_line
        self.minor = minor
        self.names: list[bytes] = []
        self.length: int | None = None
        self.chunked = False
        self.keeps_alive = minor == 1
        self.nominated = _NOTHING
        self.hop_by_hop = False
        self.challenges: tuple[bytes, ...] = ()
        self._connection: bytes | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes one field from llhttp; remembers what the relay decides by."""
        name = name.lower()
        self.names.append(name)
        if name in _RESPONSE_SPECIAL:
            self._on_special(name, value)
        elif name in HOP_BY_HOP:
            self.hop_by_hop = True

    def _on_special(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self.length = _parse_length(value)
        elif name == b"transfer-encoding":
            self.chunked = _is_chunked(value)
        elif name == b"www-authenticate":
            self.challenges += (value,)
        else:
            self.hop_by_hop = True
            if name == b"connection":
                self._connection = value if self._connection is None else self._connection + b"," + value

    def settle(self) -> None:
        """Draws the conclusions that need every field.

        Raises:
            MalformedRequest: the fields contradict each other; the caller knows that it was a response.
        """
        if self.chunked and (self.length is not None or self.minor == 0):
            raise MalformedRequest(_FRAMING)
        if (self.status < 200 or self.status == 204) and (self.chunked or self.length):
            raise MalformedRequest("A response that has no content declares some (RFC 9112 §6.3).")
        if self._connection is not None:
            options = _connection_options(self._connection)
            self.keeps_alive = b"close" not in options if self.minor else b"keep-alive" in options
            self.nominated = (options - HOP_BY_HOP - _NEVER_NOMINATED) - _KNOWN_OPTIONS


_NOTHING: Final[frozenset[bytes]] = frozenset()
_KNOWN_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))
_FRAMING: Final = (
    "The message is framed in two ways at once, or by a coding its version does not have (RFC 9112 §6.1, §6.3)."
)


def _connection_options(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip(b" \t") for option in value.lower().split(b","))


def _parse_length(value: bytes) -> int:
    # llhttp has refused a second field, lists and signs; this bounds the digits.
    if not _LENGTH.fullmatch(value):
        raise MalformedRequest("Content-Length is not a number of up to 18 digits (RFC 9110 §8.6).")
    return int(value)


def _is_chunked(value: bytes) -> bool:
    # Other transfer codings are refused: none is in use, and each is a way to disagree about where a message ends.
    if value.lower() != b"chunked":
        raise MalformedRequest("Transfer-Encoding is not exactly 'chunked', the only coding this proxy relays.")
    return True


def parse_request_head(raw: bytes, *, target_bytes: int, field_count: int) -> RequestHead:
    """Validates a request head.

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
        raise MalformedRequest(diagnose_head(raw, request=True))
    method, target, minor = match.groups()
    if len(target) > target_bytes:
        raise TargetTooLong(
            f"The request target has {len(target)} bytes; the limit is {target_bytes} (limits.target_bytes)."
        )
    head = RequestHead(method, target, 1 if minor == b"1" else 0)
    lines = raw.split(b"\r\n")
    if len(lines) - 3 > field_count:
        raise FieldsTooLarge(
            f"The request has {len(lines) - 3} fields; the limit is {field_count} (limits.field_count)."
        )
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(b"POST / HTTP/1.1\r\n" + raw[match.end() :])
    except httptools.HttpParserUpgrade:
        pass  # llhttp stops where an upgrade would begin: at the end of the head, which is all it was given
    except httptools.HttpParserCallbackError as error:
        raise _own(error) from None
    except httptools.HttpParserError:
        raise MalformedRequest(diagnose_head(raw, request=True)) from None
    head.lines = lines[1:-2]
    if len(head.lines) != len(head.names):
        raise MalformedRequest(diagnose_head(raw, request=True))
    head.settle()
    return head


def parse_response_head(raw: bytes, *, field_count: int) -> ResponseHead:
    """Validates a response head.

    Args:
        raw: everything up to and including the empty line.
        field_count: the most field lines accepted.

    Raises:
        UpstreamProtocolError: not HTTP/1.x, or it could make the client misjudge where the response ends.

    Source: RFC 9112 §4 to §6.
    """
    match = _STATUS_LINE.match(raw)
    if match is None:
        raise UpstreamProtocolError(diagnose_head(raw, request=False))
    head = ResponseHead(int(match[2]), b"HTTP/1.1" + raw[8 : match.end() - 2], 1 if match[1] == b"1" else 0)
    lines = raw.split(b"\r\n")
    if len(lines) - 3 > field_count:
        raise UpstreamProtocolError(
            f"The response has {len(lines) - 3} fields; the limit is {field_count} (limits.field_count)."
        )
    parser = httptools.HttpResponseParser(head)
    try:
        parser.feed_data(b"HTTP/1.1 200 \r\n" + raw[match.end() :])
        head.lines = lines[1:-2]
        head.settle()
    except httptools.HttpParserCallbackError as error:
        raise UpstreamProtocolError(_own(error).detail) from None
    except MalformedRequest as error:
        raise UpstreamProtocolError(error.detail) from None
    except httptools.HttpParserError:
        raise UpstreamProtocolError(diagnose_head(raw, request=False)) from None
    if len(head.lines) != len(head.names):
        raise UpstreamProtocolError(diagnose_head(raw, request=False))
    return head


def _own(error: BaseException) -> ProxyError:
    """Returns the error that one of our callbacks raised through llhttp."""
    cause = error.__context__ or error.__cause__
    if isinstance(cause, ProxyError):
        return cause
    return MalformedRequest("The head cannot be read.")


def format_request_head(
    head: RequestHead, target: bytes, host: bytes, drop: frozenset[bytes], added: bytes, *, upgrades: bool
) -> bytes:
    """Writes a request head for the upstream, ending with the empty line.

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
    kept = [line for name, line in zip(head.names, head.lines, strict=True) if name not in drop]
    if head.host != host:
        kept = _with_host(head, host, drop)
    if upgrades and head.upgrade is not None:
        kept.append(b"Connection: Upgrade\r\nUpgrade: " + head.upgrade)
    elif head.accepts_trailers:
        kept.append(b"Connection: TE\r\nTE: trailers")
    return b"%b %b HTTP/1.1\r\n%b\r\n%b\r\n" % (head.method, target, b"\r\n".join(kept), added)


def _with_host(head: RequestHead, host: bytes, drop: frozenset[bytes]) -> list[bytes]:
    """Returns the kept field lines with the Host field of this upstream, where the client's stood or else first."""
    line = b"Host: " + host
    kept = [
        line if name == b"host" else given
        for name, given in zip(head.names, head.lines, strict=True)
        if name not in drop
    ]
    return kept if head.host is not None else [line, *kept]


def format_response_head(head: ResponseHead, connection: bytes, *, chunked: bool) -> bytes:
    """Writes a response head for the client, ending with the empty line.

    Args:
        head: what the upstream sent.
        connection: a complete Connection field line with CRLF, or nothing.
        chunked: whether a chunked response stays so; False for an HTTP/1.0 client, which does not know the coding.
    """
    if head.hop_by_hop or not chunked:
        drop = HOP_BY_HOP | head.nominated
        if not chunked:
            drop |= {b"transfer-encoding", b"trailer"}
        lines = [line for name, line in zip(head.names, head.lines, strict=True) if name not in drop]
    else:
        lines = head.lines
    if not lines:
        return b"%b\r\n%b\r\n" % (head.status_line, connection)
    return b"%b\r\n%b\r\n%b\r\n" % (head.status_line, b"\r\n".join(lines), connection)


_START_OF_REQUEST: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}(?: [^\x00-\x20\x7f]*(?: [HTP/1.0]{0,8}\r?)?)?"
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


def check_partial_request(raw: bytes) -> None:
    """Refuses bytes that no continuation can make a request head, so that a client that speaks something else hears at once.

    Raises:
        MalformedRequest: waiting for more would be in vain.
    """
    line, newline, _ = raw.partition(b"\r\n")
    hopeless = not _REQUEST_LINE.fullmatch(line + b"\r\n") if newline else not _START_OF_REQUEST.fullmatch(line)
    if hopeless or _CONTROL.search(raw) or _BARE.search(raw):
        raise MalformedRequest(diagnose_head(raw, request=True))


def diagnose_head(raw: bytes, *, request: bool) -> str:
    """Says in words why a head was refused. Slow, and called only then; never quotes what was received."""
    what = "request" if request else "response"
    for pattern, words in _FAULTS:
        if pattern.search(raw):
            return f"The {what} head has {words}."
    start = _REQUEST_LINE if request else _STATUS_LINE
    if not start.match(raw):
        if raw[:1] == b"\x16":
            return "This port speaks plain HTTP, and a TLS handshake arrived. Use http:// in the proxy's own URL."
        if raw.startswith(b"PRI * HTTP/2.0"):
            return "HTTP/2 is not spoken on this port. Use HTTP/1.1."
        return f"The first line is not an HTTP/1.x {'request' if request else 'status'} line (RFC 9112 §{3 if request else 4})."
    lowered = raw.lower()
    if b"\r\ntransfer-encoding" in lowered and b"\r\ncontent-length" in lowered:
        return f"The {what} has both Content-Length and Transfer-Encoding, so its end is ambiguous (RFC 9112 §6.3)."
    if lowered.count(b"\r\ncontent-length") > 1:
        return f"The {what} has more than one Content-Length (RFC 9112 §6.3)."
    if b"\r\ncontent-length" in lowered:
        return f"The {what} has a Content-Length that is not a plain number, or a malformed field (RFC 9110 §8.6)."
    if b"\r\ntransfer-encoding" in lowered:
        return f"The {what} has a Transfer-Encoding other than 'chunked' (RFC 9112 §6.1)."
    return f"The {what} head has a malformed field line (RFC 9112 §5)."


_FAULTS: Final = (
    (re.compile(rb"\A\r\n[ \t]|\n[ \t]+[^\r\n]"), "a folded field line, which RFC 9112 §5.2 forbids"),
    (re.compile(rb"\n[^\r\n:]*[ \t]:"), "white space before a colon (RFC 9112 §5.1)"),
    (_BARE, "a bare CR or LF; lines end with CRLF (RFC 9112 §2.2)"),
    (re.compile(rb"\n[^\r\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "a control character in a field line (RFC 9110 §5.5)"),
)
