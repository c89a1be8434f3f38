"""What control and relay processes say to each other: JSON objects, each behind its length. Pure: does no I/O.

JSON and not pickle: the process that reads holds the private keys, and what it reads comes from the one that faces clients.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from proxy.relay.record import ExchangeRecord  # noqa: TC001  # msgspec reads the annotation

_LENGTH_BYTES: Final = 4
# The largest is the configuration: the file it comes from is limited to 1 MiB.
_FRAME_BYTES: Final = 4_194_304


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The base of every message. Bytes are sent in base64: a request target may hold any."""

    def __repr__(self) -> str:
        """Show no values: some are secrets."""
        return f"{type(self).__name__}(…)"


class SourceKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a source is for.

    Attributes:
        number: by which control and relay processes speak of it; never used again for another one.
        credential: the credential's name.
        scope: as a route has it.
        resource: as a route has it, in place of the scope.
    """

    number: int
    credential: str
    scope: str | None = None
    resource: str | None = None


class Begin(Message, frozen=True, kw_only=True, tag="begin"):
    """Control → relay, first of all: what to serve.

    Attributes:
        settings: the configuration as `proxy.workers.worker` reads it back.
        ports: of the listeners, in the configuration's order; a free port has been chosen by now.
        number: of the relay process, from 0.
        sources: what each token source of this configuration is for.
    """

    settings: dict[str, object]
    ports: tuple[int, ...]
    number: int
    sources: tuple[SourceKey, ...]


class Reload(Message, frozen=True, kw_only=True, tag="reload"):
    """Control → relay: go over to another configuration, with the same listeners. The attributes are those of `Begin`."""

    settings: dict[str, object]
    sources: tuple[SourceKey, ...]


class Token(Message, frozen=True, kw_only=True, tag="token"):
    """Control → relay: a source's current token. Moments are seconds of the clock both processes share (CLOCK_MONOTONIC)."""

    source: int
    serial: int
    value: str
    obtained_at_mono: float
    refresh_at_mono: float
    expires_at_mono: float
    usable_until_mono: float
    proof: str = ""


class Answered(Message, frozen=True, kw_only=True, tag="answered"):
    """Control → relay: a request is answered; the token it asked for was sent just before."""

    request: int


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """Control → relay: a request failed. The fields are those of `proxy.errors.ProxyError`.

    Attributes:
        error: the name of its class, one of `proxy.workers.tokens.ERRORS`.
    """

    request: int
    error: str
    detail: str
    code: str
    retry_after_s: int | None


class Leaf(Message, frozen=True, kw_only=True, tag="leaf"):
    """Control → relay: the leaf certificate asked for.

    Attributes:
        host: as it was asked for.
        name: what the certificate is for: that host, or a wildcard that stands for it and its siblings.
        rsa: whether it is the RSA certificate, to be shown beside the other.
        pem: with chain and key; None where the host is not routed.
    """

    host: str
    name: str
    rsa: bool = False
    pem: str | None


class CAChanged(Message, frozen=True, kw_only=True, tag="ca_changed"):
    """Control → relay: another CA signs from now on, so leaves have to be fetched again."""


class AnnounceEnd(Message, frozen=True, kw_only=True, tag="announce_end"):
    """Control → relay: tell clients that their connections end, and go on accepting others."""


class Drain(Message, frozen=True, kw_only=True, tag="drain"):
    """Control → relay: stop accepting, finish what is in flight, exit."""


class Started(Message, frozen=True, kw_only=True, tag="started"):
    """Relay → control: the listeners are open."""


class Want(Message, frozen=True, kw_only=True, tag="want"):
    """Relay → control: a token is needed and there is none."""

    source: int
    request: int


class Stale(Message, frozen=True, kw_only=True, tag="stale"):
    """Relay → control: a token that should be renewed is in use."""

    source: int


class Rejected(Message, frozen=True, kw_only=True, tag="rejected"):
    """Relay → control: an upstream refused a token."""

    source: int
    serial: int
    claims: str | None
    certain: bool


class WantLeaf(Message, frozen=True, kw_only=True, tag="want_leaf"):
    """Relay → control: a leaf certificate is needed for a host.

    Attributes:
        host: in canonical form.
        rsa: whether a client takes RSA only.
    """

    host: str
    rsa: bool = False


class Figures(Message, frozen=True, kw_only=True, tag="figures"):
    """Relay → control: what has been counted so far.

    Attributes:
        snapshot: as `proxy.operations.snapshot.format_snapshot` writes it.
        records: the newest exchanges that have ended since the last figures, for the page to look at.
    """

    snapshot: str
    records: tuple[ExchangeRecord, ...] = ()


class Forked(Message, frozen=True, kw_only=True, tag="forked"):
    """Template → control: the relay process asked for runs."""

    pid: int


class NotForked(Message, frozen=True, kw_only=True, tag="not_forked"):
    """Template → control: the system lets us have no process.

    Attributes:
        number: its reason, as in `errno`.
    """

    number: int


class Ended(Message, frozen=True, kw_only=True, tag="ended"):
    """Template → control: a relay process has ended.

    Attributes:
        pid: its process id.
        status: its exit status, or the negative number of a signal.
    """

    pid: int
    status: int


ToRelay: TypeAlias = Begin | Reload | Token | Answered | Failed | Leaf | CAChanged | AnnounceEnd | Drain
ToControl: TypeAlias = Started | Want | Stale | Rejected | WantLeaf | Figures
ToForking: TypeAlias = Forked | NotForked | Ended

TO_RELAY: Final[msgspec.json.Decoder[ToRelay]] = msgspec.json.Decoder(ToRelay)
TO_CONTROL: Final[msgspec.json.Decoder[ToControl]] = msgspec.json.Decoder(ToControl)
TO_FORKING: Final[msgspec.json.Decoder[ToForking]] = msgspec.json.Decoder(ToForking)


class BrokenFrames(Exception):  # noqa: N818  # a verdict on the other process, which is then replaced
    """What arrived is not what the other process would send."""


def format_frame(message: Message) -> bytes:
    """Return a message with its length in front: four bytes, big-endian."""
    content = msgspec.json.encode(message)
    return len(content).to_bytes(_LENGTH_BYTES) + content


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the contents of the frames that are complete by now.

        Raises:
            BrokenFrames: a frame is larger than any message.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES])
            if end > _FRAME_BYTES:
                raise BrokenFrames
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[_LENGTH_BYTES:end]))
            del self._buffer[:end]
        return frames
