"""Why a certificate was not accepted, and what to do about it: one diagnosis for running and for checking. Does no I/O."""

from __future__ import annotations

from typing import Final, NamedTuple


class Distrust(NamedTuple):
    """A diagnosis.

    Attributes:
        code: short and machine-readable.
        what: says it of the certificate, as in "the certificate has expired".
        advice: what to do next, whole sentences; ``{key}`` stands for the key that names the certificates to trust.
    """

    code: str
    what: str
    advice: str


_EXPIRED: Final = Distrust(
    code="tls_expired",
    what="has expired",
    advice="Its operator has to renew it; if it has not expired, correct this machine's clock (NTP).",
)
_NOT_YET_VALID: Final = Distrust(
    code="tls_not_yet_valid",
    what="is not valid yet by this machine's clock",
    advice="Correct this machine's clock (NTP).",
)
_OTHER_NAME: Final = Distrust(
    code="tls_wrong_name",
    what="is for other names",
    advice="Check the host's spelling and DNS entry: another server, or a proxy in between, may answer there.",
)
_UNTRUSTED: Final = Distrust(
    code="tls_untrusted",
    what="is not trusted",
    advice=(
        "If it is your organisation's own CA's, or that of a device that inspects TLS, name the CA's certificate in `{key}`. "
        "If it is a public CA's, the server has to send the intermediate certificates as well."
    ),
)

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_BY_VERIFY_CODE: Final = {9: _NOT_YET_VALID, 10: _EXPIRED, 62: _OTHER_NAME, 64: _OTHER_NAME}


def explain_distrust(verify_code: int, key: str = "ca_file") -> Distrust:
    """Return the diagnosis.

    Args:
        verify_code: OpenSSL's verification error, as `ssl.SSLCertVerificationError` carries it.
        key: of the configuration, which names the certificates to trust.
    """
    found = _BY_VERIFY_CODE.get(verify_code, _UNTRUSTED)
    return found._replace(advice=found.advice.format(key=key))
