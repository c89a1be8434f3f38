"""One token endpoint: a form out, a token back. Does network I/O through `HttpsClient`, whose invariants hold here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.errors import ConfigurationError
from proxy.identity.https_client import REQUEST_TIMEOUT_S, HttpsClient
from proxy.identity.token_response import TokenResponse, parse_answer, parse_date

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from proxy.dialing.dialer import Dialer
    from proxy.identity.token_response import Answer

# Fields of the form that no error may repeat.
_SECRET_FIELDS = ("client_assertion", "client_secret")


class TokenEndpoint:
    """One token endpoint.

    Attributes:
        url: where the form is posted.
        origin: scheme, host and port of the URL.
        clock_skew_s: the platform's clock less ours, by the Date of its latest answer; None before one.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        wall_clock: Callable[[], float] = time.time,
        dialer: Dialer | None = None,
    ) -> None:
        """Prepare, without connecting.

        Args:
            url: https only.
            ca_file: PEM certificates trusted beside the system's roots.
            timeout_s: for one attempt.
            wall_clock: Unix seconds, for the skew.
            dialer: as for `HttpsClient`.

        Raises:
            ConfigurationError: the URL is not https, or the CA file cannot be used.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigurationError(
                f"The token endpoint {url!r} is not an https URL; a credential travels over TLS only."
            )
        self.url = url
        self.origin = f"https://{parts.netloc.rpartition('@')[2].lower()}"
        self.clock_skew_s: float | None = None
        self._wall_clock = wall_clock
        self._client = HttpsClient("token endpoint", ca_file=ca_file, timeout_s=timeout_s, dialer=dialer)

    async def request(
        self, form: Mapping[str, str], request_id: str, url: str | None = None, tls: ssl.SSLContext | None = None
    ) -> TokenResponse:
        """Post the form once and return the token.

        Args:
            form: sent as application/x-www-form-urlencoded (RFC 6749 §4.4.2).
            request_id: a GUID; Entra ID echoes it as correlation id.
            url: another address at the same origin; default: the endpoint's own.
            tls: shows a client certificate; None: none is shown.

        Raises:
            CredentialRejected: the endpoint said no.
            IdentityPlatformUnavailable: no answer, or none that can be used.
        """
        sent_at = self._wall_clock()
        answer = await self.post(url or self.url, form, {"client-request-id": request_id}, tls)
        received_at = self._wall_clock()
        date_at = parse_date(answer.date)
        if date_at is not None:
            # Date is cut to the second, so half a second is added; the platform wrote it between the two readings.
            self.clock_skew_s = date_at + 0.5 - (sent_at + received_at) / 2
        secrets = tuple(form[name] for name in _SECRET_FIELDS if name in form)
        return parse_answer(answer, now_at=received_at, secrets=secrets)

    async def post(
        self, url: str, form: Mapping[str, str], fields: Mapping[str, str], tls: ssl.SSLContext | None = None
    ) -> Answer:
        """Post a form and return the answer as it came.

        Raises:
            IdentityPlatformUnavailable: no complete answer came.
        """
        return await self._client.exchange("POST", url, form=form, fields=fields, tls=tls)
