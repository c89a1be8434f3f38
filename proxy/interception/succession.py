"""One interception CA after another without a gap: which of them signs, what clients trust meanwhile, when the next is due.

Does no I/O; time comes in as an argument. A host goes on being signed for by the CA that its clients trust already: a route
that is added concerns nobody but those who use it.

    prepared      the next CA exists and clients are told to trust it as well; it signs only for hosts the one in use may not
    taken over    the newest CA signs for everything, and the key of the one before is gone
    dropped       clients are no longer told to trust the one before
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.errors import ConfigurationError
from proxy.interception.authority import InterceptionCA  # noqa: TC001  # a field of dataclasses

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.interception.authority import Issuer
    from proxy.interception.names import Name

TAKE_OVER_BEFORE: Final = timedelta(days=7)
"""The CA in use is relieved this long before it ends: the life of a leaf."""

PREPARE_BEFORE: Final = timedelta(days=30)
"""The next CA is prepared this long before the one in use ends, unless somebody did so earlier."""

OVERLAP: Final = timedelta(days=7)
"""How long clients are given to trust the next CA, unless told otherwise: what starts weekly has then read both."""

DROP_AFTER: Final = timedelta(days=7)
"""How long clients are told to trust a CA after it was relieved: no leaf of it lives longer."""

_PREVIOUS = re.compile(rb"Until: (\S+)\n(-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Previous:
    """An anchor that was relieved.

    Attributes:
        anchor: the certificate.
        until: when clients no longer need to trust it, in UTC.
    """

    anchor: x509.Certificate
    until: datetime

    @property
    def fingerprint(self) -> str:
        """As `InterceptionCA.fingerprint`."""
        return self.anchor.fingerprint(hashes.SHA256()).hex(":").upper()


@dataclass(frozen=True, slots=True)
class Succession:
    """The CA in use and those around it.

    Attributes:
        current: what signs for all it may.
        prepared: what signs for the rest, oldest first. The last one takes over, and may sign for all that is routed.
        previous: what was relieved a short while ago; its key is gone.
    """

    current: InterceptionCA
    prepared: tuple[InterceptionCA, ...] = ()
    previous: tuple[Previous, ...] = ()

    @property
    def newest(self) -> InterceptionCA:
        """What is to stay in the end."""
        return self.prepared[-1] if self.prepared else self.current

    @property
    def not_after(self) -> datetime:
        """The end of the CA in use, in UTC."""
        return self.current.not_after

    @property
    def cut_over_from(self) -> datetime | None:
        """When clients have had time to trust what is prepared, in UTC; None where nothing is."""
        return self.newest.made_at + OVERLAP if self.prepared else None

    def choose(self, name: Name, now: datetime) -> Issuer:
        """Return the issuer for a name of the CA that clients have trusted longest among those that may sign for it."""
        for ca in (self.current, *self.prepared):
            if now < ca.not_after and ca.permits(name):
                return ca.choose(name, now)
        return self.current.choose(name, now)

    def trusted(self) -> list[x509.Certificate]:
        """Return the anchors that clients are to trust now."""
        return [
            self.current.anchor,
            *(ca.anchor for ca in self.prepared),
            *(previous.anchor for previous in self.previous),
        ]

    @property
    def identity(self) -> bytes:
        """What is another where anything else signs, or is to be trusted: every CA has an anchor of its own."""
        return self.trusted_pem()

    def trusted_pem(self) -> bytes:
        """Return the anchors that clients are to trust now, as PEM."""
        return b"".join(anchor.public_bytes(Encoding.PEM) for anchor in self.trusted())

    def not_yet_trusted(self, hosts: Sequence[str]) -> tuple[str, ...]:
        """Return the hosts that the CA in use may not sign for: only who trusts a prepared one can reach them."""
        return self.current.constraints.missing(hosts)


def decide_preparation(succession: Succession, hosts: Sequence[str], now: datetime) -> str | None:
    """Return why another CA is to be prepared, a sentence for the operator, or None while nothing is due.

    Routes that went away are no reason: the CA may then sign for a host too many, but clients need not be asked again.

    Raises:
        ConfigurationError: one of the hosts is not a name.
    """
    missing = succession.newest.constraints.missing(hosts)
    if missing:
        which = "route " + missing[0] if len(missing) == 1 else "routes " + ", ".join(missing)
        were = "was" if len(missing) == 1 else "were"
        return f"prepared because {which} {were} added: clients must trust it to use what was added"
    if not succession.prepared and now >= succession.current.not_after - PREPARE_BEFORE:
        return f"prepared because the one in use ends on {succession.current.not_after:%Y-%m-%d}: clients must trust it by then"
    return None


def decide_take_over(succession: Succession, now: datetime) -> bool:
    """Return whether the CA in use has to be relieved, ready or not."""
    return now >= succession.current.not_after - TAKE_OVER_BEFORE


def take_over(succession: Succession, new: InterceptionCA, now: datetime) -> Succession:
    """Return what there is once a CA has taken over: the others sign no more, and stay trusted for a while."""
    relieved = [ca.anchor for ca in (succession.current, *succession.prepared) if ca.anchor != new.anchor]
    until = (now + DROP_AFTER).astimezone(UTC)
    return Succession(new, (), (*succession.previous, *(Previous(anchor, until) for anchor in relieved)))


def drop_previous(succession: Succession, now: datetime) -> Succession:
    """Return the same without the anchors that clients no longer need to trust."""
    kept = tuple(one for one in succession.previous if now < one.until and now < one.anchor.not_valid_after_utc)
    return Succession(succession.current, succession.prepared, kept)


def format_previous(previous: Iterable[Previous]) -> bytes:
    """Return relieved anchors as PEM, each with the end of its time before it (RFC 7468 §5.2)."""
    return b"".join(
        f"Until: {one.until.isoformat(timespec='seconds')}\n".encode() + one.anchor.public_bytes(Encoding.PEM)
        for one in previous
    )


def parse_previous(text: bytes) -> tuple[Previous, ...]:
    """Return what `format_previous` wrote.

    Raises:
        ConfigurationError: it is damaged.
    """
    try:
        return tuple(
            Previous(x509.load_pem_x509_certificate(pem), datetime.fromisoformat(until.decode("ascii")))
            for until, pem in _PREVIOUS.findall(text)
        )
    except ValueError:
        raise ConfigurationError("It does not hold certificates with the dates until which they are trusted.") from None
