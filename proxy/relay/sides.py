"""The seam of an exchange: what it asks of the client and of the upstream, and what they tell it. Does no I/O.

In HTTP/1.1 a side is the connection itself; in a version with streams it is a stream. `Exchange` knows the two sides by these
interfaces alone, and no side knows the other. Heads are values in the form of HTTP/1.1 (`message`) whatever the version, and
content is content: how either is framed on the wire is for the side to know.

They are traits of mypyc, because a call through one costs no more than a direct call: docs/adr/0028-sides.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy_extensions import trait

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proxy.errors import ProxyError
    from proxy.relay.message import RequestHead, ResponseHead

# How the end of a response's content is told.
NO_CONTENT: Final = 0
SIZED: Final = 1
CHUNKED: Final = 2
UNTIL_CLOSE: Final = 3

# Who holds the reading of a request. Each lets go of its own hold, and reading goes on behind the last.
UNSENT: Final = 1  # more of the request has come than is kept without a connection to send it on
STALLED: Final = 2  # the upstream takes the request more slowly than it comes

# How an upstream was lost before its response was complete.
UNPROCESSED: Final = 0  # it has said that it did nothing with the request: any may be sent again (RFC 9113 §8.7)
UNANSWERED: Final = 1  # without a byte of a response
INCOMPLETE: Final = 2  # in the middle of the response, by a proper end
CUT: Final = 3  # in the middle of the response, by a reset
SILENT: Final = 4  # it sent nothing for too long
RESET: Final = 5  # it has ended this request alone, without a byte of a response
BROKEN: Final = 6  # without a byte of a response, by something after which nothing on its connection can be relied on


class Pipe:
    """What is left of a side that carries no HTTP any more: bytes both ways.

    Attributes:
        transport: to read from and write to.
        early: what has been read of them already.
        has_ended: whether its peer has ended sending.
        on_end: to be called once when the pipe is no longer used.
    """

    __slots__ = ("early", "has_ended", "on_end", "transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        early: bytes = b"",
        on_end: Callable[[], object] | None = None,
        *,
        has_ended: bool = False,
    ) -> None:
        self.transport = transport
        self.early = early
        self.on_end = on_end
        self.has_ended = has_ended


@trait
class ClientSide:
    """Who sent the request, and reads the response.

    Attributes:
        deadline: monotonic seconds by which the client has to send or take something; infinite where it need not.
        ends_with_response: whether nothing is read from the client behind the response that has begun.
    """

    __slots__ = ()
    deadline: float
    ends_with_response: bool

    def send_interim(self, head: ResponseHead) -> None:
        """Send a 1xx response, where the client's version has them."""
        raise NotImplementedError

    def send_head(self, head: ResponseHead, framing: int, *, takes_rest: bool) -> None:
        """Take the head of the response; it leaves with what `send_content` or `end`, one of which follows, brings.

        Args:
            head: as it came.
            framing: NO_CONTENT, SIZED, CHUNKED or UNTIL_CLOSE.
            takes_rest: whether what is missing of the request would still be passed on.
        """
        raise NotImplementedError

    def send_content(self, content: bytes) -> None:
        """Send content of the response, and its head if that has not left; the content may be empty."""
        raise NotImplementedError

    def end(self, content: bytes, trailers: bytes) -> None:
        """Send the last of the response: content, which may be empty, and trailer field lines with CRLF, or none."""
        raise NotImplementedError

    def answer(self, error: ProxyError, *, request_complete: bool) -> None:
        """Answer in the proxy's own name, and end the exchange: no response has begun."""
        raise NotImplementedError

    def cut(self) -> None:
        """End the exchange so that the client can tell that its response was cut."""
        raise NotImplementedError

    def hold_request(self, holder: int) -> None:
        """Read no more of the request, on behalf of UNSENT or STALLED."""
        raise NotImplementedError

    def release_request(self, holder: int) -> None:
        """Read on, unless another holder is left."""
        raise NotImplementedError

    def finish(self, *, request_complete: bool) -> None:
        """End the exchange: its response has left whole. What becomes of the connection is for the side to decide."""
        raise NotImplementedError

    def hand_over(self, head: ResponseHead | None) -> Pipe | None:
        """Send the response behind which there is no HTTP, and give the connection away.

        Args:
            head: the upstream's 101; None: the proxy's own 200 to CONNECT.

        Returns:
            What is left; None where the client's version cannot do that, and nothing has been sent.
        """
        raise NotImplementedError

    def leads_to(self, host: str) -> bool:
        """Return whether the client's requests may name this host, as the listener is configured now."""
        raise NotImplementedError


@trait
class UnderWay:
    """What a client side is busy with: an exchange, a tunnel that is being opened, a check of who sends a request.

    Attributes:
        request: the request's head.
        request_complete: whether the request has been read whole.
    """

    __slots__ = ()
    request: RequestHead
    request_complete: bool

    @property
    def response_deadline(self) -> float:
        """When the upstream's time ends; in the past where it has not begun to answer."""
        raise NotImplementedError

    def on_client_lost(self) -> None:
        """Let go of everything: the client is gone."""
        raise NotImplementedError

    def fail(self, error: ProxyError) -> None:
        """Answer with an error, or cut the response where one has begun."""
        raise NotImplementedError

    def hold_response(self) -> None:
        """Read no more of the response: the client does not take it as fast as it comes."""
        raise NotImplementedError

    def release_response(self) -> None:
        """Read on."""
        raise NotImplementedError


@trait
class ResponseReceiver:
    """What an upstream side sends a request for, and hands its response to.

    Attributes:
        request: the request's head.
        request_complete: whether the request has been read whole.
    """

    __slots__ = ()
    request: RequestHead
    request_complete: bool

    @property
    def request_deadline(self) -> float:
        """When the client's time ends to send the rest of the request."""
        raise NotImplementedError

    def hold_request(self) -> None:
        """Read no more of the request: the upstream does not take it as fast as it comes."""
        raise NotImplementedError

    def release_request(self) -> None:
        """Read on."""
        raise NotImplementedError

    def on_interim(self, head: ResponseHead) -> None:
        """Take a 1xx response other than 101."""
        raise NotImplementedError

    def on_upgraded(self, head: ResponseHead) -> None:
        """Take 101: `hand_over` gives what follows."""
        raise NotImplementedError

    def on_response_head(self, head: ResponseHead, framing: int) -> None:
        """Take the final response's head; a call with content, or the end, follows in the same turn."""
        raise NotImplementedError

    def on_response_content(self, content: bytes) -> None:
        """Take content of the response; may be empty."""
        raise NotImplementedError

    def on_response_end(self, content: bytes, trailers: bytes) -> None:
        """Take the last of the response: content, which may be empty, and trailer field lines with CRLF, or none."""
        raise NotImplementedError

    def on_upstream_lost(self, loss: int, hint: str = "") -> None:
        """Take note that no more of the response will come.

        Args:
            loss: UNPROCESSED, UNANSWERED, INCOMPLETE, CUT, SILENT, RESET or BROKEN.
            hint: what may be behind it, in a sentence; or nothing.
        """
        raise NotImplementedError

    def on_upstream_failed(self, error: ProxyError) -> None:
        """Take note that the upstream has refused this connection, or that its response cannot be understood."""
        raise NotImplementedError


@trait
class UpstreamSide:
    """Where one attempt at an exchange is sent, and where its response comes from.

    Attributes:
        deadline: monotonic seconds by which the upstream has to send or take something; infinite where it need not.
        reused: whether its connection had served before.
        version: of HTTP, as `counters` numbers them.
        answered: whether anything of the response to this attempt has arrived.
    """

    __slots__ = ()
    deadline: float
    reused: bool
    version: int
    answered: bool

    @property
    def address(self) -> str:
        """Where the connection leads, an IP address as text."""
        raise NotImplementedError

    def begin(
        self,
        receiver: ResponseReceiver,
        head: RequestHead,
        target: bytes,
        host: bytes,
        drop: frozenset[bytes],
        added: bytes,
        content: bytes,
        trailers: bytes | None,
    ) -> None:
        """Send a request as far as it has come.

        Args:
            receiver: gets the response.
            head: as the client sent it.
            target: in origin-form, or ``*``.
            host: the authority for this upstream.
            drop: lower-case names of fields that do not pass.
            added: complete field lines with CRLF, put behind the client's.
            content: what has come of it.
            trailers: field lines with CRLF, or nothing; None: the request is not complete.
        """
        raise NotImplementedError

    def send_content(self, content: bytes) -> None:
        """Send content of the request."""
        raise NotImplementedError

    def end(self, content: bytes, trailers: bytes) -> None:
        """Send the last of the request: content, which may be empty, and trailer field lines with CRLF, or none."""
        raise NotImplementedError

    def hold_response(self) -> None:
        """Read no more of the response."""
        raise NotImplementedError

    def release_response(self) -> None:
        """Read on."""
        raise NotImplementedError

    def takes_rest(self, receiver: ResponseReceiver) -> bool:
        """Go on with a request whose response is complete; False where the upstream has said that it will not."""
        raise NotImplementedError

    def finish(self, *, is_whole: bool) -> None:
        """End the attempt: its response is complete, and so is the request, where `is_whole`."""
        raise NotImplementedError

    def return_unused(self) -> None:
        """Give back what was acquired, and not used."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End the attempt at once: whatever still comes of it belongs to nobody."""
        raise NotImplementedError

    def hand_over(self) -> Pipe:
        """Give away the connection on which 101 has come."""
        raise NotImplementedError
