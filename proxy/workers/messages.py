"""What control and relay processes say to each other: JSON objects, each behind its length. Pure: does no I/O.

JSON and not pickle: the process that reads holds the private keys, and what it reads comes from the one that faces clients.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from proxy.relay.record import ExchangeRecord  # noqa: TC001  # pydantic reads the annotation

_LENGTH_BYTES: Final = 4
# The largest is the configuration: the file it comes from is limited to 1 MiB.
_FRAME_BYTES: Final = 4_194_304


class Message(BaseModel):
    """The base of every message."""

    # A request target may hold any bytes.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class SourceKey(Message):
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


class Begin(Message):
    """Control → relay, first of all: what to serve.

    Attributes:
        settings: the configuration as `proxy.workers.worker` reads it back.
        ports: of the listeners, in the configuration's order; a free port has been chosen by now.
        number: of the relay process, from 0.
        sources: what each token source of this configuration is for.
    """

    kind: Literal["begin"] = "begin"
    settings: dict[str, object]
    ports: tuple[int, ...]
    number: int
    sources: tuple[SourceKey, ...]


class Reload(Message):
    """Control → relay: go over to another configuration, with the same listeners. The attributes are those of `Begin`."""

    kind: Literal["reload"] = "reload"
    settings: dict[str, object]
    sources: tuple[SourceKey, ...]


class Token(Message):
    """Control → relay: a source's current token. Moments are seconds of the clock both processes share (CLOCK_MONOTONIC)."""

    kind: Literal["token"] = "token"
    source: int
    serial: int
    value: str = Field(repr=False)
    obtained_at_mono: float
    refresh_at_mono: float
    expires_at_mono: float
    usable_until_mono: float
    proof: str = ""


class Answered(Message):
    """Control → relay: a request is answered; the token it asked for was sent just before."""

    kind: Literal["answered"] = "answered"
    request: int


class Failed(Message):
    """Control → relay: a request failed. The fields are those of `proxy.errors.ProxyError`.

    Attributes:
        error: the name of its class, one of `proxy.workers.tokens.ERRORS`.
    """

    kind: Literal["failed"] = "failed"
    request: int
    error: str
    detail: str
    code: str
    retry_after_s: int | None


class Leaf(Message):
    """Control → relay: the leaf certificate asked for.

    Attributes:
        host: as it was asked for.
        name: what the certificate is for: that host, or a wildcard that stands for it and its siblings.
        rsa: whether it is the RSA certificate, to be shown beside the other.
        pem: with chain and key; None where the host is not routed.
    """

    kind: Literal["leaf"] = "leaf"
    host: str
    name: str
    rsa: bool = False
    pem: str | None = Field(repr=False)


class CAChanged(Message):
    """Control → relay: another CA signs from now on, so leaves have to be fetched again."""

    kind: Literal["ca_changed"] = "ca_changed"


class AnnounceEnd(Message):
    """Control → relay: tell clients that their connections end, and go on accepting others."""

    kind: Literal["announce_end"] = "announce_end"


class Drain(Message):
    """Control → relay: stop accepting, finish what is in flight, exit."""

    kind: Literal["drain"] = "drain"


class Started(Message):
    """Relay → control: the listeners are open."""

    kind: Literal["started"] = "started"


class Want(Message):
    """Relay → control: a token is needed and there is none."""

    kind: Literal["want"] = "want"
    source: int
    request: int


class Stale(Message):
    """Relay → control: a token that should be renewed is in use."""

    kind: Literal["stale"] = "stale"
    source: int


class Rejected(Message):
    """Relay → control: an upstream refused a token."""

    kind: Literal["rejected"] = "rejected"
    source: int
    serial: int
    claims: str | None
    certain: bool


class WantLeaf(Message):
    """Relay → control: a leaf certificate is needed for a host.

    Attributes:
        host: in canonical form.
        rsa: whether a client takes RSA only.
    """

    kind: Literal["want_leaf"] = "want_leaf"
    host: str
    rsa: bool = False


class Figures(Message):
    """Relay → control: what has been counted so far.

    Attributes:
        snapshot: as `proxy.operations.snapshot.format_snapshot` writes it.
        records: the newest exchanges that have ended since the last figures, for the page to look at.
    """

    kind: Literal["figures"] = "figures"
    snapshot: str
    records: tuple[ExchangeRecord, ...] = ()


class Forked(Message):
    """Template → control: the relay process asked for runs."""

    kind: Literal["forked"] = "forked"
    pid: int


class NotForked(Message):
    """Template → control: the system lets us have no process.

    Attributes:
        number: its reason, as in `errno`.
    """

    kind: Literal["not_forked"] = "not_forked"
    number: int


class Ended(Message):
    """Template → control: a relay process has ended.

    Attributes:
        pid: its process id.
        status: its exit status, or the negative number of a signal.
    """

    kind: Literal["ended"] = "ended"
    pid: int
    status: int


ToRelay = Annotated[
    Begin | Reload | Token | Answered | Failed | Leaf | CAChanged | AnnounceEnd | Drain, Field(discriminator="kind")
]
ToControl = Annotated[Started | Want | Stale | Rejected | WantLeaf | Figures, Field(discriminator="kind")]
ToForking = Annotated[Forked | NotForked | Ended, Field(discriminator="kind")]

TO_RELAY: Final[TypeAdapter[ToRelay]] = TypeAdapter(ToRelay)
TO_CONTROL: Final[TypeAdapter[ToControl]] = TypeAdapter(ToControl)
TO_FORKING: Final[TypeAdapter[ToForking]] = TypeAdapter(ToForking)


class BrokenFrames(Exception):  # noqa: N818  # a verdict on the other process, which is then replaced
    """What arrived is not what the other process would send."""


def format_frame(message: Message) -> bytes:
    """Return a message with its length in front: four bytes, big-endian."""
    content = message.model_dump_json().encode()
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
