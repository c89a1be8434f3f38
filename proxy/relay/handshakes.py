"""Why a TLS handshake with a client failed, as one of our codes. Pure.

OpenSSL's reasons are for who reads its source; each code has an explanation in `proxy.explanations.codes`.
"""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple


class _Cause(NamedTuple):
    """A code, and the parts of OpenSSL's reasons that it stands for."""

    code: str
    reasons: tuple[str, ...]


# The first that fits. Alerts that the client has sent (RFC 8446 §6.2) have names of the same form as what is found here.
_CAUSES: Final = (
    _Cause("CLIENT_DISTRUSTS_CA", ("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE")),
    _Cause("CLIENT_FINDS_CERTIFICATE_EXPIRED", ("CERTIFICATE_EXPIRED",)),
    _Cause("NO_COMMON_SIGNATURE", ("SUITABLE_SIGNATURE_ALGORITHM", "SHARED_SIGNATURE_ALGORITHM")),
    _Cause("NO_COMMON_CIPHER", ("NO_SHARED_CIPHER", "NO_CIPHERS", "NO_SUITABLE_KEY_SHARE", "NO_SUITABLE_GROUPS")),
    _Cause("NO_COMMON_TLS_VERSION", ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "PROTOCOL_VERSION", "WRONG_VERSION")),
)
_UNKNOWN: Final = _Cause("TLS_HANDSHAKE_FAILED", ())


def name_cause(error: Exception) -> str:
    """Return the code of why a handshake failed; ``TLS_HANDSHAKE_FAILED`` where that is not known."""
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    for cause in _CAUSES:
        if any(part in reason for part in cause.reasons):
            return cause.code
    return _UNKNOWN.code
