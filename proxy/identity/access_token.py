"""An access token with the moments of its life, ready to be put on a request. Does no I/O.

Invariant: ``refresh_at_mono < usable_until_mono < expires_at_mono``, and no ``repr`` shows the token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.identity.lifetime import flight_margin_s, refresh_after_s


@dataclass(frozen=True, slots=True, eq=False)
class AccessToken:
    """An access token; opaque to us. Two are the same only if they are one object.

    Attributes:
        field_line: ``Authorization: Bearer <token>`` with its CRLF (RFC 6750 §2.1).
        value: the token alone.
        obtained_at_mono: when the request for it was sent, so that the time in flight counts against its life.
        refresh_at_mono: stale from here on.
        expires_at_mono: expired from here on.
        usable_until_mono: not put on a request from here on.
        proof: name of the proof it was obtained with, such as a certificate's thumbprint.
    """

    field_line: bytes
    value: str
    obtained_at_mono: float
    refresh_at_mono: float
    expires_at_mono: float
    usable_until_mono: float
    proof: str = ""

    def __repr__(self) -> str:
        return f"<AccessToken expires_at_mono={self.expires_at_mono:.0f}>"


def create_access_token(
    value: str,
    *,
    requested_at_mono: float,
    expires_in_s: float,
    refresh_in_s: float | None,
    jitter: float,
    proof: str = "",
    age_s: float = 0.0,
) -> AccessToken:
    """Return a token with its moments worked out.

    Args:
        value: visible ASCII.
        requested_at_mono: monotonic seconds, read before the request was sent.
        expires_in_s: over zero.
        refresh_in_s: the platform's suggestion, or None.
        jitter: 0 to 1.
        proof: name of the proof it was obtained with.
        age_s: how old it was at `requested_at_mono`: one from another replica is not new, so a refusal of it is believed.
    """
    expires_at_mono = requested_at_mono + expires_in_s
    return AccessToken(
        field_line=b"Authorization: Bearer " + value.encode("ascii") + b"\r\n",
        value=value,
        obtained_at_mono=requested_at_mono - age_s,
        refresh_at_mono=requested_at_mono + refresh_after_s(expires_in_s, refresh_in_s, jitter),
        expires_at_mono=expires_at_mono,
        usable_until_mono=expires_at_mono - flight_margin_s(expires_in_s),
        proof=proof,
    )


def age_token(token: AccessToken, seconds: float) -> AccessToken:
    """Return the token as it is after time that the monotonic clock did not count."""
    return replace(
        token,
        obtained_at_mono=token.obtained_at_mono - seconds,
        refresh_at_mono=token.refresh_at_mono - seconds,
        expires_at_mono=token.expires_at_mono - seconds,
        usable_until_mono=token.usable_until_mono - seconds,
    )
