"""Proof by a certificate in the TLS handshake with the token endpoint (RFC 8705 §2). Does no I/O itself.

The server may bind its tokens to that certificate (§3): then the routes show it, too, which `proxy.config.bound_tokens` sees to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from proxy.identity.certificate import PublicCertificate


class TlsCertificate:
    """A certificate that is shown; nothing but the client id stands in the form.

    Attributes:
        public: its public half.
    """

    def __init__(self, certificate: PublicCertificate, tls: ssl.SSLContext) -> None:
        """Prepare.

        Args:
            certificate: the public half.
            tls: shows it; used for nothing else.
        """
        self.public = certificate
        self._tls = tls

    @property
    def name(self) -> str:
        """The SHA-1 thumbprint, as for assertions."""
        return f"TLS certificate {self.public.sha1_hex}"

    @property
    def certificate(self) -> PublicCertificate | None:
        """The public half."""
        return self.public

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What shows it."""
        return self._tls

    async def form_fields(self, *, client_id: str, audience: str, now: float) -> Mapping[str, str]:  # noqa: ARG002 -- the interface
        """Return nothing: the handshake has proved it."""
        return {}
