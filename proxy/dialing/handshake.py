"""Why a TLS handshake with an upstream failed, in words that say whose turn it is. Does no I/O.

The relay and `check --online` say the same, because both ask here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """What went wrong.

    Attributes:
        code: as `ProxyError.code`.
        reason: what the other end did, to stand behind its name.
        advice: what to do, a sentence.
    """

    code: str
    reason: str
    advice: str

    def describe(self, who: object) -> str:
        """Return both as one text about a server."""
        return f"{who} {self.reason}. {self.advice}"


_WANTS: Final = HandshakeFailure(
    "upstream_wants_client_certificate",
    "asks for a client certificate, and was shown none, or none that it takes",
    "Name one that its operator accepts in the route's `client_certificate`.",
)
_REFUSES: Final = HandshakeFailure(
    "upstream_refuses_client_certificate",
    "does not accept the client certificate that it was shown",
    "Have its operator accept the certificate in the route's `client_certificate` with the CA that issued it, or name another one; "
    "the chain has to be complete, and the certificate not expired.",
)
_TOO_OLD: Final = HandshakeFailure(
    "upstream_tls_too_old",
    "speaks no TLS version that is still safe (1.2 or 1.3)",
    "Its operator has to enable TLS 1.2.",
)
_NO_CIPHER: Final = HandshakeFailure(
    "upstream_no_common_cipher",
    "has no cipher suite in common with this proxy",
    "Its operator has to enable one with forward secrecy, such as ECDHE with AES-GCM.",
)
_TOO_WEAK: Final = HandshakeFailure(
    "upstream_tls_too_weak",
    "uses keys, signatures or a renegotiation that are not safe any more",
    "Its operator has to use an RSA key of 2048 bits or more, SHA-256, and a current TLS library.",
)
_UNKNOWN_NAME: Final = HandshakeFailure(
    "upstream_unknown_name",
    "does not know the host's name (SNI)",
    "Check the host's spelling and DNS entry, and the route's `dial`: another server may answer there.",
)
# What an upstream answers that speaks none of the HTTP versions it was offered (RFC 7301 §3.2).
NO_VERSION: Final = "upstream_http2_only"
_NO_VERSION: Final = HandshakeFailure(
    "upstream_http2_only",
    "speaks none of the HTTP versions that it was offered",
    "If the route has `http2: off`, perhaps it has HTTP/2 only: remove that. Otherwise ask its operator to allow HTTP/1.1.",
)
_NOT_TLS: Final = HandshakeFailure(
    "upstream_not_tls",
    "answered with something that is not TLS",
    "Is it a TLS port? Check the port in the route's `hosts` or `dial`.",
)
_FAILED: Final = HandshakeFailure(
    "upstream_handshake_failed",
    "did not complete a TLS 1.2 or 1.3 handshake",
    "Look into its log; a firewall between here and there may also cut the handshake.",
)

# What OpenSSL says, in lower case. "alert" stands in what the other end sent; everything else is our own side's judgement.
_REASONS: Final = (
    # RFC 7301 §3.2. Python has a name for this alert only in some versions; OpenSSL's own words are always there.
    (("no application protocol",), _NO_VERSION),
    (("alert certificate required",), _WANTS),
    (
        (
            "alert bad certificate",
            "alert unsupported certificate",
            "alert certificate revoked",
            "alert certificate expired",
            "alert certificate unknown",
            "alert unknown ca",
            "alert access denied",
            "alert decrypt error",
        ),
        _REFUSES,
    ),
    (("alert protocol version", "unsupported protocol", "wrong ssl version"), _TOO_OLD),
    (("alert insufficient security", "no ciphers available"), _NO_CIPHER),
    (
        (
            "key too small",
            "md too weak",
            "wrong signature type",
            "unsafe legacy renegotiation",
            "no suitable signature",
        ),
        _TOO_WEAK,
    ),
    (("unrecognized name",), _UNKNOWN_NAME),
    (("wrong version number", "http request", "packet length too long", "unknown protocol"), _NOT_TLS),
)


def judge_handshake(error: ssl.SSLError, tls: ssl.SSLObject | None) -> HandshakeFailure:
    """Return why a handshake failed, or was refused in hindsight, as TLS 1.3 does with a missing client certificate.

    Args:
        error: not about the other end's certificate.
        tls: the connection, where it is at hand.
    """
    told = str(error).lower().replace("_", " ")
    # handshake_failure says two things: before a cipher suite is chosen, that there is none in common; behind that, in TLS 1.2,
    # that the client certificate is missing (RFC 5246 §7.4.6).
    if "alert handshake failure" in told:
        return _NO_CIPHER if tls is None or tls.cipher() is None else _WANTS
    return next((failure for words, failure in _REASONS if any(word in told for word in words)), _FAILED)


def is_about_client_certificate(failure: HandshakeFailure) -> bool:
    """Return whether it is ours to show another certificate."""
    return failure in (_WANTS, _REFUSES)
