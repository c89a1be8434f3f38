"""The HTTP client of one token endpoint: a form out, an answer back. Does network I/O over verified TLS.

Invariants: no redirect is followed, no cookie kept, no environment proxy used; at most 1 MiB is read; one attempt a
call, bounded in time; no error carries a library's text. Repeating is for the caller, who knows about the others.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy import __version__
from proxy.errors import ConfigurationError, IdentityPlatformUnavailable
from proxy.identity.token_response import Answer, TokenResponse, parse_answer, parse_date

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import aiohttp

# A token response is a few KiB; one of a thousand times that is not one.
CONTENT_LIMIT_BYTES = 1_048_576
# Entra ID answers in well under a second. Shorter than `timeouts.token_s`, so that a waiting request hears the reason.
REQUEST_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 65_536
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
    ) -> None:
        """Prepare, without connecting.

        Args:
            url: https only.
            ca_file: PEM certificates trusted beside the system's roots.
            timeout_s: for one attempt, from name resolution to the last byte.
            wall_clock: Unix seconds, for the skew.

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
        self._host = parts.hostname
        self._timeout_s = timeout_s
        self._wall_clock = wall_clock
        self._tls = create_tls_context(ca_file)
        self._session: aiohttp.ClientSession | None = None

    async def request(self, form: Mapping[str, str], request_id: str, url: str | None = None) -> TokenResponse:
        """Post the form once and return the token.

        Args:
            form: sent as application/x-www-form-urlencoded (RFC 6749 §4.4.2).
            request_id: a GUID; Entra ID echoes it as correlation id.
            url: another address at the same origin; default: the endpoint's own.

        Raises:
            CredentialRejected: the endpoint said no.
            IdentityPlatformUnavailable: no answer, or none that can be used.
        """
        answer = await self.exchange("POST", url or self.url, form=form, fields={"client-request-id": request_id})
        secrets = tuple(form[name] for name in _SECRET_FIELDS if name in form)
        return parse_answer(answer, now_at=self._wall_clock(), secrets=secrets)

    async def exchange(
        self, method: str, url: str, *, form: Mapping[str, str] | None = None, fields: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request to this endpoint's origin and return its answer, whatever its status.

        Raises:
            IdentityPlatformUnavailable: no complete answer came.
        """
        import aiohttp  # noqa: PLC0415 -- a third of a second that the command line does not need

        session = self._open_session()
        sent_at = self._wall_clock()
        try:
            async with session.request(method, url, data=form, headers=fields, allow_redirects=False) as response:
                content = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    content += chunk
                    if len(content) > CONTENT_LIMIT_BYTES:
                        response.close()
                        raise self._unavailable("answer_too_large", "answers with more than 1 MiB")
                answer = Answer(
                    response.status, bytes(content), response.headers.get("Retry-After"), response.headers.get("Date")
                )
        except aiohttp.ClientConnectorCertificateError:
            raise self._unavailable(
                "tls_untrusted",
                "shows a certificate that is not trusted for its name; with a private CA, set `ca_file`",
            ) from None
        except aiohttp.ClientSSLError:
            raise self._unavailable("tls_failed", "does not complete the TLS handshake") from None
        except TimeoutError:
            raise self._unavailable("timeout", f"did not answer within {self._timeout_s:g} s") from None
        except aiohttp.ClientConnectorDNSError:
            raise self._unavailable("name_not_resolved", "has a name that cannot be resolved; check DNS") from None
        except aiohttp.ClientConnectorError:
            raise self._unavailable("connection_failed", "refuses connections or cannot be reached") from None
        except (aiohttp.ClientError, OSError):
            raise self._unavailable("connection_cut", "broke off or does not speak HTTP") from None
        self._measure_skew(answer, sent_at)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp  # noqa: PLC0415 -- as above

            # Tokens are asked for once an hour: a kept connection would have died by then, and cost a failure.
            connector = aiohttp.TCPConnector(ssl=self._tls, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=CONNECT_TIMEOUT_S),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": f"apim-auth-proxy/{__version__}",
                },
            )
        return self._session

    def _measure_skew(self, answer: Answer, sent_at: float) -> None:
        date_at = parse_date(answer.date)
        if date_at is not None:
            # Date is cut to the second, so half a second is added; the platform wrote it between the two readings.
            self.clock_skew_s = date_at + 0.5 - (sent_at + self._wall_clock()) / 2

    def _unavailable(self, code: str, what: str) -> IdentityPlatformUnavailable:
        return IdentityPlatformUnavailable(
            f"The token endpoint at {self._host} {what}. The proxy tries again by itself.", code=code
        )


def create_tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies names and certificates against the system's roots and the file's.

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigurationError(
                f"{ca_file}: the CA file cannot be read, or holds no PEM certificate; correct `ca_file`."
            ) from None
    return context
