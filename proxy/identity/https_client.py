"""The HTTP client of everything that gives us tokens or signatures. Does network I/O, over verified TLS.

Invariants: no redirect is followed, no cookie kept, no proxy used but the dialer's; at most 1 MiB is read; one attempt a
call, bounded in time; no error carries a library's text. Repeating is for the caller, who knows about the others.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy import __version__
from proxy.dialing.dialer import Dialer
from proxy.dialing.distrust import explain_distrust
from proxy.dialing.handshake import is_about_client_certificate, judge_handshake
from proxy.dialing.http_library import import_aiohttp
from proxy.dialing.trust import create_tls_context
from proxy.errors import IdentityPlatformUnavailable, LoopDetected, Overloaded, UpstreamError
from proxy.identity.token_response import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import aiohttp

# A token response is a few KiB; one of a thousand times that is not one.
CONTENT_LIMIT_BYTES = 1_048_576
# Entra ID answers in well under a second. Shorter than `timeouts.token_s`, so that a waiting request hears the reason.
REQUEST_TIMEOUT_S = 10.0
_CHUNK_BYTES = 65_536


class HttpsClient:
    """Sends single requests and returns answers of any status."""

    def __init__(
        self,
        role: str,
        *,
        ca_file: Path | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        dialer: Dialer | None = None,
    ) -> None:
        """Prepare, without connecting.

        Args:
            role: whom it talks to, for messages, e.g. ``token endpoint``.
            ca_file: PEM certificates trusted beside the system's roots.
            timeout_s: for one attempt, from name resolution to the last byte.
            dialer: opens the connections; default: one that goes by no upstream proxy.

        Raises:
            ConfigurationError: the CA file cannot be used.
        """
        self._role = role
        self._timeout_s = timeout_s
        self._tls = create_tls_context(ca_file)
        self._dialer = dialer or Dialer()
        self._session: aiohttp.ClientSession | None = None

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        fields: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Answer:
        """Send one request and return its answer, whatever its status.

        Args:
            method: such as ``POST``.
            url: absolute.
            form: sent as application/x-www-form-urlencoded.
            content: sent as it is; in place of ``form``.
            fields: beside the usual ones.
            tls: for this request; shows a client certificate.

        Raises:
            IdentityPlatformUnavailable: no complete answer came.
        """
        import_aiohttp()  # a fifth of a second that most commands do not need
        import aiohttp  # noqa: PLC0415 -- as above

        session = self._open_session()
        data = form if form is not None else content
        host = urlsplit(url).hostname or ""
        try:
            async with session.request(
                method, url, data=data, headers=fields, allow_redirects=False, ssl=tls or True
            ) as response:
                received = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    received += chunk
                    if len(received) > CONTENT_LIMIT_BYTES:
                        response.close()
                        raise self._unavailable(host, "answer_too_large", "answers with more than 1 MiB")
                return Answer(
                    response.status,
                    bytes(received),
                    response.headers.get("Retry-After"),
                    response.headers.get("Date"),
                    response.headers.get("WWW-Authenticate"),
                )
        except aiohttp.ClientConnectorCertificateError as error:
            raise self._distrusted(host, error.certificate_error) from None
        except aiohttp.ClientConnectorSSLError as error:
            if tls is not None and (refused := self._judge_shown(host, error)) is not None:
                raise refused from None
            reason = judge_handshake(error.os_error, None).reason if isinstance(error.os_error, ssl.SSLError) else ""
            what = reason or "does not complete the TLS handshake"
            what += "; check its host and port in the configuration, and whether a proxy or firewall stands between"
            raise self._unavailable(host, "tls_failed", what) from None
        except TimeoutError:
            parts = urlsplit(url)
            way = self._dialer.describe_way(host, parts.port or 443, is_plain=parts.scheme == "http")
            raise self._unavailable(host + way, "timeout", f"did not answer within {self._timeout_s:g} s") from None
        except (UpstreamError, LoopDetected, Overloaded) as error:
            raise self._unavailable(
                host, error.code or "connection_failed", f"cannot be reached: {error.detail.removesuffix('.')}"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            # In TLS 1.3 a client certificate is judged behind the handshake, as the client sees it.
            if tls is not None and (refused := self._judge_shown(host, error)) is not None:
                raise refused from None
            what = "broke off or does not speak HTTP" + (
                "" if tls is None else "; or it does not take the certificate it was shown"
            )
            raise self._unavailable(host, "connection_cut", what) from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp  # noqa: PLC0415 -- as above

            from proxy.identity.connector import DialingConnector  # noqa: PLC0415 -- it imports aiohttp

            connector = DialingConnector(self._dialer, self._tls)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": f"apim-auth-proxy/{__version__}",
                },
            )
        return self._session

    def _judge_shown(self, host: str, error: BaseException) -> IdentityPlatformUnavailable | None:
        """Return what is to be said where the certificate that was shown is not accepted."""
        seen: BaseException | None = error
        while seen is not None and not isinstance(seen, ssl.SSLError):
            seen = getattr(seen, "os_error", None) or seen.__cause__ or seen.__context__
        if seen is None or not is_about_client_certificate(judge_handshake(seen, None)):
            return None
        return IdentityPlatformUnavailable(
            f"The {self._role} at {host} does not accept the certificate that it was shown in the TLS handshake. Have its operator "
            "accept the credential's `certificate` with the CA that issued it: the chain has to be complete, and not expired. The "
            "proxy tries again by itself.",
            code="client_certificate_refused",
        )

    def _distrusted(self, host: str, error: Exception) -> IdentityPlatformUnavailable:
        distrust = explain_distrust(getattr(error, "verify_code", 0))
        return IdentityPlatformUnavailable(
            f"The certificate of the {self._role} at {host} {distrust.what}. {distrust.advice} The proxy tries again by itself.",
            code=distrust.code,
        )

    def _unavailable(self, host: str, code: str, what: str) -> IdentityPlatformUnavailable:
        return IdentityPlatformUnavailable(
            f"The {self._role} at {host} {what}. The proxy tries again by itself.",
            code=code,
        )
