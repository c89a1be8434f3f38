"""What every way to prove who we are offers. Does no I/O itself; implementations say what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from proxy.identity.certificate import PublicCertificate


class Proof(Protocol):
    """One way to prove who we are to a token endpoint."""

    @property
    def name(self) -> str:
        """What it is, for logs and metrics: never a secret, and the same for the same proof."""
        ...

    @property
    def certificate(self) -> PublicCertificate | None:
        """The certificate behind it, whose dates decide when it can be used; None where there is none, or none known yet."""
        ...

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What the request is sent with, where the proof is in the handshake; None: what any other request is sent with."""
        ...

    async def form_fields(self, *, client_id: str, audience: str, now: float) -> Mapping[str, str]:
        """Return the form fields that prove it.

        Args:
            client_id: whose proof.
            audience: whom it is for.
            now: Unix seconds by the platform's clock, as far as it is known.

        Raises:
            IdentityError: it cannot be made.
        """
        ...


class FormProof:
    """What proofs have in common that are in the form alone, and whose end only somebody else knows."""

    certificate: PublicCertificate | None = None
    tls: ssl.SSLContext | None = None


class Signer(Protocol):
    """Who holds the private key of a certificate and signs with it."""

    @property
    def name(self) -> str:
        """As `Proof.name`."""
        ...

    @property
    def certificate(self) -> PublicCertificate | None:
        """As `Proof.certificate`."""
        ...

    async def public_certificate(self) -> PublicCertificate:
        """Return the certificate the signatures verify under.

        Raises:
            IdentityError: it cannot be had.
        """
        ...

    async def sign(self, signing_input: bytes, algorithm: str) -> bytes:
        """Return a JWS signature (RFC 7518 §3.3, §3.5).

        Raises:
            IdentityError: the signer failed.
        """
        ...
