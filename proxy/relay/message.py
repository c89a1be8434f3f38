"""The head of a request or a response as a value: its fields, and what the relay reads from them. Pure: does no I/O.

`head` makes these from bytes, and bytes from them. A message could be read as ending in two places, or as meant for two
hosts, if fields contradict each other; so one that does is refused here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from proxy.errors import MalformedRequest

# A token (RFC 9110 §5.6.2), then a target of any bytes but space, controls and "#": the upstream decides which are legal.
# No registered method has more than 18 letters; the limit lets a client of another protocol be told at once.
REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ([^\x00-\x20\x7f#]+) HTTP/1\.([01])\r\n")
STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
# A CR or LF that is not half of a CRLF (RFC 9112 §2.2); a CR at the end may still become one.
BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
LENGTH_DIGITS: Final = 18  # more than any message needs, and fewer than 2**64 has
_LENGTH_LINE: Final = len(b"Content-Length: ")
_SPACE: Final = 0x20
_ZERO: Final = 0x30

# RFC 9110 §7.6.1: fields about one connection, which are never passed on.
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
# Connection cannot make these hop-by-hop: framing, routing and what the proxy itself sets (RFC 9110 §7.6.1).
_NEVER_NOMINATED: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"trailer", b"authorization"))
# What `take_special` reads.
REQUEST_SPECIAL: Final = frozenset(
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
RESPONSE_SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"transfer-encoding", b"www-authenticate"}
_KNOWN_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))
_NOTHING: Final[frozenset[bytes]] = frozenset()
_FRAMING: Final = (
    "The message is framed in two ways at once, or by a coding its version does not have (RFC 9112 §6.1, §6.3)."
)


class Head:
    """What request and response heads have in common.

    Few messages have all of these, so the rarer ones are class attributes until they are set.

    Attributes:
        minor: of HTTP/1.x, 0 or 1.
        names: the fields' names in lower case, in order.
        fields: the field lines as sent, each with its CRLF.
        length: Content-Length in bytes; None without one.
        chunked: whether the content is framed by the chunked coding.
        keeps_alive: whether the sender will use the connection again (RFC 9112 §9.3).
        nominated: lower-case names that Connection declares hop-by-hop, beyond the known ones.
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
        """Take the name of a field that llhttp has accepted; its line is in `fields`."""
        self.names.append(name.lower())

    def take_fields(self, names: list[bytes], lines: list[bytes]) -> None:
        """Take all fields, one line for each of the names."""
        self.names = names
        self._lines = lines

    @property
    def lines(self) -> list[bytes]:
        """The field lines as sent, without CRLF, one for each of `names`."""
        if self._lines is None:
            self._lines = self.fields.split(b"\r\n")[:-1]
        return self._lines

    def value(self, name: bytes) -> bytes:
        """Return the value of the first field of this name, which must be among `names`."""
        return self.lines[self.names.index(name)][len(name) + 1 :].strip(b" \t")

    def values(self, wanted: bytes) -> list[bytes]:
        """Return the values of all fields of this name, in order."""
        skip = len(wanted) + 1
        return [line[skip:].strip(b" \t") for name, line in zip(self.names, self.lines, strict=True) if name == wanted]

    def take_framing(self, special: frozenset[bytes]) -> None:
        """Read Content-Length and Transfer-Encoding, as far as `special` names them.

        A spelling that some recipient could read in another way is replaced by the plain one.

        Raises:
            MalformedRequest: the message could be read as ending in two places.
        """
        # llhttp has refused a second Content-Length, lists and signs.
        if b"content-length" in special:
            line = self.lines[self.names.index(b"content-length")]
            digits = line[15:].strip(b" \t")
            if len(digits) > LENGTH_DIGITS:
                raise MalformedRequest("Content-Length has more digits than any message needs (RFC 9110 §8.6).")
            self.length = int(digits)
            if (
                len(line) != _LENGTH_LINE + len(digits)
                or line[15] != _SPACE
                or (digits[0] == _ZERO and len(digits) > 1)
            ):
                self._write_plainly(line, line[:15] + b" %d" % self.length)
        if b"transfer-encoding" in special:
            # Other codings are refused: nobody uses them, and each invites a disagreement about where the message ends.
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
        """Replace a field line by the same field with one space before its value and none behind it."""
        self._lines = [plain if one is line else one for one in self.lines]
        self.fields = b"\r\n".join(self._lines) + b"\r\n"

    def take_connection(self, name: bytes) -> frozenset[bytes]:
        """Read the Connection field: whether the connection is kept, and which fields are hop-by-hop. Return its options."""
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

    @property
    def asks_for_websocket(self) -> bool:
        """Whether the client asks for the one protocol that is passed on (RFC 6455 §4.1)."""
        return self.upgrade is not None and self.upgrade.lower() == b"websocket"

    def take_special(self, special: frozenset[bytes]) -> None:
        """Read the fields that the relay acts on.

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
        # Old clients send Proxy-Connection instead.
        for name in (b"connection", b"proxy-connection"):
            if name in special:
                options = self.take_connection(name)
                # RFC 9110 §7.8: ignore Upgrade in an HTTP/1.0 request.
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
        """Read the fields that the relay acts on.

        Raises:
            MalformedRequest: they contradict each other; the caller reports it as a fault of the response.
        """
        self.take_framing(special)
        if (self.status < 200 or self.status == 204) and (self.chunked or self.length):
            raise MalformedRequest("A response that has no content declares some (RFC 9112 §6.3).")
        self.hop_by_hop = not HOP_BY_HOP.isdisjoint(special)
        if b"connection" in special:
            self.take_connection(b"connection")


@lru_cache(maxsize=64)
def _read_options(value: bytes) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the options of a Connection field, and which of them name further hop-by-hop fields."""
    options = frozenset(option.strip(b" \t") for option in value.lower().split(b","))
    return options, options - HOP_BY_HOP - _NEVER_NOMINATED - _KNOWN_OPTIONS
