"""Proof by a client assertion (RFC 7523 §2.2): a JWT that somebody signs. Does no I/O itself; its signer may."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from proxy.identity.assertion import (
    AssertionOptions,
    format_claims,
    format_header,
    format_signing_input,
    join_signature,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from proxy.identity.certificate import ClientCertificate, PublicCertificate
    from proxy.identity.proof.interface import Signer

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class SignedAssertion:
    """A client assertion, made anew for each request, so that none lives longer than it must."""

    def __init__(self, signer: Signer, options: AssertionOptions) -> None:
        self._signer = signer
        self._options = options

    @property
    def name(self) -> str:
        """The signer's."""
        return self._signer.name

    @property
    def certificate(self) -> PublicCertificate | None:
        """The signer's."""
        return self._signer.certificate

    @property
    def tls(self) -> ssl.SSLContext | None:
        """None: the proof is in the form."""
        return None

    async def form_fields(self, *, client_id: str, audience: str, now: float) -> Mapping[str, str]:
        """Return client_assertion_type and client_assertion."""
        public = await self._signer.public_certificate()
        signing_input = format_signing_input(
            format_header(public, self._options), format_claims(client_id, audience, now, str(uuid.uuid4()))
        )
        signature = await self._signer.sign(signing_input, self._options.algorithm)
        return {
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": join_signature(signing_input, signature),
        }


class CertificateSigner:
    """The key is in this process."""

    def __init__(self, certificate: ClientCertificate) -> None:
        self._certificate = certificate

    @property
    def name(self) -> str:
        """The SHA-1 thumbprint, as the Azure portal lists certificates."""
        return f"certificate {self._certificate.sha1_hex}"

    @property
    def certificate(self) -> PublicCertificate | None:
        """The public half."""
        return self._certificate

    async def public_certificate(self) -> PublicCertificate:
        """Return the public half."""
        return self._certificate

    async def sign(self, signing_input: bytes, algorithm: str) -> bytes:
        """Sign here: a millisecond or a few, once an hour, so not worth a thread."""
        return self._certificate.sign(signing_input, algorithm)
