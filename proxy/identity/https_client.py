"""The HTTP client of everything that gives us tokens or signatures. Does network I/O, over verified TLS.

Invariants: no redirect is followed, no cookie kept, no proxy used but the dialer's; at most 1 MiB is read; one attempt a
call, bounded in time; no error carries a library's text. Repeating is for the caller, who knows about the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit, urlunsplit

from proxy import __version__
from proxy.dialing.dialer import Dialer
from proxy.dialing.distrust import explain_distrust
from proxy.dialing.handshake import is_about_client_certificate, judge_handshake
from proxy.dialing.http_exchange import ResponseTooLarge, exchange
from proxy.dialing.resolver import Attempt, describe_name_timeout
from proxy.dialing.trust import create_tls_context
from proxy.errors import IdentityPlatformUnavailable, LoopDetected, Overloaded, UpstreamError
from proxy.identity.token_response import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# A token response is a few KiB; one of a thousand times that is not one.
CONTENT_LIMIT_BYTES = 1_048_576
# Entra ID answers in well under a second. Shorter than `timeouts.token_s`, so that a waiting request hears the reason.
REQUEST_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
"""For the name, TCP and TLS."""
_VERDICT_S: Final = 0.1
# What a target may have as it stands (RFC 3986 §2.2, §2.3), and what has been encoded already.
_TARGET_CHARACTERS: Final = "%/:?#[]@!$&'()*+,;=~"


class _HandshakeFailed(Exception):  # noqa: N818  # named as its like in `proxy.errors`
    """A TLS handshake that failed, apart from faults of the exchange behind it."""

    def __init__(self, error: ssl.SSLError) -> None:
        super().__init__()
        self.error = error


def _target(parts: SplitResult) -> str:
    return quote(urlunsplit(("", "", parts.path or "/", parts.query, "")), safe=_TARGET_CHARACTERS)


def _port(parts: SplitResult) -> int:
    return parts.port or (80 if parts.scheme == "http" else 443)


async def _await_verdict(reader: asyncio.StreamReader) -> None:
    """Wait a moment for what a server says of the client certificate.

    In TLS 1.3 it judges it when the client's handshake is over (RFC 8446 §4.4.2.4), and closes: what had been sent by then would
    make a reset of that, and the reason would be lost.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_VERDICT_S):
            await reader.read(1)
            raise ConnectionError  # it has closed, or speaks first, which is not HTTP


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
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        if form is not None:
            content = urlencode(form).encode("ascii")
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await self._connect(parts, host, tls)
                try:
                    if tls is not None:
                        await _await_verdict(reader)
                    response = await exchange(
                        reader,
                        writer,
                        f"{method} {_target(parts)}",
                        self._list_fields(parts, host, is_form=form is not None, fields=fields or {}),
                        content or b"",
                        limit_bytes=CONTENT_LIMIT_BYTES,
                    )
                except BaseException:
                    writer.transport.abort()
                    raise
                writer.close()  # requests are an hour apart: a kept connection would have died by then
        except ResponseTooLarge:
            raise self._unavailable(host, "answer_too_large", "answers with more than 1 MiB") from None
        except _HandshakeFailed as failed:
            raise self._judge_handshake(host, failed.error, shows=tls is not None) from None
        except TimeoutError:
            way = self._dialer.describe_way(host, _port(parts), is_plain=parts.scheme == "http")
            raise self._unavailable(host + way, "timeout", f"did not answer within {self._timeout_s:g} s") from None
        except (UpstreamError, LoopDetected, Overloaded) as error:
            raise self._unavailable(
                host, error.code or "connection_failed", f"cannot be reached: {error.detail.removesuffix('.')}"
            ) from None
        except (OSError, ValueError) as error:
            # In TLS 1.3 a client certificate is judged behind the handshake, as the client sees it.
            if tls is not None and (refused := self._judge_shown(host, error)) is not None:
                raise refused from None
            what = "broke off or does not speak HTTP" + (
                "" if tls is None else "; or it does not take the certificate it was shown"
            )
            raise self._unavailable(host, "connection_cut", what) from None
        return Answer(
            response.status,
            response.content,
            response.value(b"retry-after"),
            response.value(b"date"),
            response.value(b"www-authenticate"),
        )

    async def _connect(
        self, parts: SplitResult, host: str, tls: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection; what the dialer raises passes as it is.

        Raises:
            NameTimeout: the name did not resolve within `CONNECT_TIMEOUT_S`.
            TimeoutError: the connection was not complete by then.
            _HandshakeFailed: for the reason it has.
        """
        is_plain = parts.scheme == "http"
        attempt = Attempt()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connected = await self._dialer.connect(host, _port(parts), is_plain=is_plain, attempt=attempt)
                try:
                    return await asyncio.open_connection(
                        sock=connected,
                        ssl=None if is_plain else tls or self._tls,
                        server_hostname=None if is_plain else host,
                    )
                except ssl.SSLError as error:
                    connected.close()
                    raise _HandshakeFailed(error) from None
                except BaseException:
                    connected.close()
                    raise
        except TimeoutError:
            late = describe_name_timeout(attempt, CONNECT_TIMEOUT_S)
            if late is not None:
                raise late from None
            raise

    @staticmethod
    def _list_fields(parts: SplitResult, host: str, *, is_form: bool, fields: Mapping[str, str]) -> dict[str, str]:
        named = f"[{host}]" if ":" in host else host
        return {
            "Host": named if parts.port is None else f"{named}:{parts.port}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"apim-auth-proxy/{__version__}",
            **({"Content-Type": "application/x-www-form-urlencoded"} if is_form else {}),
            **fields,
        }

    def _judge_handshake(self, host: str, error: ssl.SSLError, *, shows: bool) -> IdentityPlatformUnavailable:
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._distrusted(host, error)
        if shows and (refused := self._judge_shown(host, error)) is not None:
            return refused
        what = judge_handshake(error, None).reason or "does not complete the TLS handshake"
        what += "; check its host and port in the configuration, and whether a proxy or firewall stands between"
        return self._unavailable(host, "tls_failed", what)

    def _judge_shown(self, host: str, error: BaseException) -> IdentityPlatformUnavailable | None:
        """Return what is to be said where the certificate that was shown is not accepted."""
        seen: BaseException | None = error
        while seen is not None and not isinstance(seen, ssl.SSLError):
            seen = seen.__cause__ or seen.__context__
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
