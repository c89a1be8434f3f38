"""A signer in Azure Key Vault: the private key stays there and signs over its REST API. Does network I/O.

Source: Key Vault's sign and get-certificate operations, version 7.4. It signs a digest, not the input.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.errors import ConfigurationError, IdentityError, IdentityPlatformUnavailable
from proxy.identity.certificate import parse_public_certificate, verify_signature
from proxy.identity.token_response import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.identity.certificate import PublicCertificate
    from proxy.identity.https_client import HttpsClient
    from proxy.identity.source import TokenSource
    from proxy.identity.token_response import Answer

API_VERSION = "7.4"
PUBLIC_RESOURCE = "https://vault.azure.net"
# By the end of a vault's host; the resource to ask a token for.
_RESOURCES = {
    ".vault.azure.net": PUBLIC_RESOURCE,
    ".vault.usgovcloudapi.net": "https://vault.usgovcloudapi.net",
    ".vault.azure.cn": "https://vault.azure.cn",
}


@dataclass(frozen=True, slots=True)
class VaultKey:
    """Where a key is.

    Attributes:
        vault: origin of the vault.
        name: of the key, and of the certificate it belongs to.
        version: empty for the latest.
    """

    vault: str
    name: str
    version: str

    @property
    def resource(self) -> str:
        """What to ask a token for the vault with."""
        host = urlsplit(self.vault).hostname or ""
        return next((resource for suffix, resource in _RESOURCES.items() if host.endswith(suffix)), PUBLIC_RESOURCE)


def parse_vault_key(url: str) -> VaultKey:
    """Return the key that ``https://VAULT/keys/NAME[/VERSION]`` names.

    Raises:
        ConfigurationError: the URL has another form.
    """
    parts = urlsplit(url)
    segments = parts.path.strip("/").split("/")
    if (
        parts.scheme != "https"
        or not parts.netloc
        or len(segments) not in {2, 3}
        or segments[0] != "keys"
        or not segments[1]
    ):
        raise ConfigurationError(
            "key_vault_key is the key's identifier, https://VAULT.vault.azure.net/keys/NAME, with or without a version."
        )
    return VaultKey(f"https://{parts.netloc}", segments[1], segments[2] if len(segments) == 3 else "")


class KeyVaultSigner:
    """Signs by asking a vault."""

    def __init__(
        self, key: VaultKey, tokens: TokenSource, client: HttpsClient, *, certificate: PublicCertificate | None = None
    ) -> None:
        """Prepare.

        Args:
            key: which key.
            tokens: access tokens for the vault; closed by whoever made it.
            client: closed by whoever made it.
            certificate: the key's; None: it is read from the vault, which takes the right to read certificates.
        """
        self._key = key
        self._tokens = tokens
        self._client = client
        self._certificate = certificate
        self._is_read_from_vault = certificate is None
        self._version = key.version

    @property
    def name(self) -> str:
        """The key's identifier."""
        return f"key vault key {self._key.vault}/keys/{self._key.name}"

    @property
    def certificate(self) -> PublicCertificate | None:
        """The certificate; None until it has been read from the vault."""
        return self._certificate

    async def public_certificate(self) -> PublicCertificate:
        """Return the certificate, from the vault the first time, and again once its end has passed.

        Raises:
            IdentityError: the vault does not give it.
        """
        known = self._certificate if self._is_read_from_vault else None
        if known is not None and known.date_problem(datetime.now(UTC)) is not None:
            # The vault may have renewed it meanwhile, with another key.
            self._certificate, self._version = None, self._key.version
        if self._certificate is None:
            answer = await self._send("GET", f"certificates/{self._key.name}{self._suffix()}", None)
            encoded, identifier = answer.get("cer"), answer.get("kid")
            try:
                certificate = parse_public_certificate(base64.b64decode(str(encoded), validate=True))
            except (binascii.Error, ValueError):
                raise _unusable("without an RSA certificate") from None
            # The certificate's own key version, so that a new version does not part the two.
            if not self._version and isinstance(identifier, str):
                self._version = identifier.rstrip("/").rpartition("/")[2]
            self._certificate = certificate
        return self._certificate

    async def sign(self, signing_input: bytes, algorithm: str) -> bytes:
        """Have the vault sign.

        Raises:
            IdentityError: the vault does not, or signs with another key than the certificate's.
        """
        # The one that the input's header names, where it has been read for that.
        certificate = self._certificate or await self.public_certificate()
        digest = _encode(hashlib.sha256(signing_input).digest())
        content = json.dumps({"alg": algorithm, "value": digest}).encode()
        answer = await self._send("POST", f"keys/{self._key.name}{self._suffix()}/sign", content)
        value = str(answer.get("value", ""))
        try:
            signature = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        except (binascii.Error, ValueError):
            signature = b""
        if not verify_signature(certificate, signature, signing_input, algorithm):
            raise _unusable(
                "with a signature that does not fit the certificate; name the certificate's own key version"
            )
        return signature

    def _suffix(self) -> str:
        return f"/{self._version}" if self._version else ""

    async def _send(self, method: str, path: str, content: bytes | None) -> Mapping[str, object]:
        url = f"{self._key.vault}/{path}?api-version={API_VERSION}"
        for last_attempt in (False, True):
            token = await self._tokens.acquire()
            fields = {"Authorization": f"Bearer {token.value}"}
            if content is not None:
                fields["Content-Type"] = "application/json"
            answer = await self._client.exchange(method, url, content=content, fields=fields)
            refused = answer.status == 401 and not last_attempt
            if refused and self._tokens.report_refusal(token, time.monotonic(), certain=True):
                continue
            break
        return _parse(answer)


def _parse(answer: Answer) -> Mapping[str, object]:
    if answer.status == 429 or answer.status >= 500:
        raise IdentityPlatformUnavailable(
            f"The key vault answers {answer.status}. The proxy tries again by itself.",
            retry_after_s=parse_retry_after(answer.retry_after, time.time()),
            code=f"key_vault_http_{answer.status}",
        )
    if answer.status in {401, 403}:
        raise IdentityError(
            f"The key vault answers {answer.status}: the identity that signs may not. Give it the role Key Vault Crypto User"
            " (and Key Vault Certificate User where the certificate is read from the vault).",
            code=f"key_vault_http_{answer.status}",
        )
    if answer.status == 404:
        raise IdentityError(
            "The key vault has no such key or certificate; check `key_vault_key`.", code="key_vault_http_404"
        )
    try:
        parsed: object = json.loads(answer.content)
    except (ValueError, RecursionError):
        parsed = None
    if answer.status != 200 or not isinstance(parsed, dict):
        raise _unusable(f"{answer.status} and something that is not an answer of a vault")
    return parsed


def _unusable(what: str) -> IdentityError:
    return IdentityError(f"The key vault answers {what}; check `key_vault_key`.", code="key_vault_unusable")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
