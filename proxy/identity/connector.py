"""Gives the HTTP client its connections: opened by the product's own dialer, TLS on top. Does network I/O.

Apart from `https_client`, so that aiohttp is imported where it is used only.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final

from aiohttp import BaseConnector, ClientConnectorCertificateError, ClientConnectorSSLError

from proxy.dialing.resolver import Attempt, describe_name_timeout

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.tracing import Trace

    from proxy.dialing.dialer import Dialer


CONNECT_TIMEOUT_S: Final = 5.0
"""For the name, TCP and TLS."""


class DialingConnector(BaseConnector):
    """Opens every connection anew, through the upstream proxy where there is one."""

    def __init__(self, dialer: Dialer, context: ssl.SSLContext) -> None:
        """Prepare.

        Args:
            dialer: opens connections.
            context: verifies the other end's certificate.
        """
        # Tokens are asked for once an hour: a kept connection would have died by then, and cost a failure.
        super().__init__(force_close=True)
        self._dialer = dialer
        self._context = context

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],  # noqa: ARG002 -- aiohttp's signature
        timeout: ClientTimeout,  # noqa: ARG002, ASYNC109 -- as above; ours says what took so long
    ) -> ResponseHandler:
        """Return a connection; what the dialer raises passes as it is.

        Raises:
            NameTimeout: the name did not resolve within `CONNECT_TIMEOUT_S`.
            TimeoutError: the connection was not complete by then.
        """
        attempt = Attempt()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._connect(req, attempt)
        except TimeoutError:
            late = describe_name_timeout(attempt, CONNECT_TIMEOUT_S)
            if late is not None:
                raise late from None
            raise

    async def _connect(self, req: ClientRequest, attempt: Attempt) -> ResponseHandler:
        host, port = (req.url.raw_host or "").rstrip("."), req.port or 0
        context = req.ssl if isinstance(req.ssl, ssl.SSLContext) else self._context
        connected = await self._dialer.connect(host, port, is_plain=not req.is_ssl(), attempt=attempt)
        try:
            _, protocol = await self._loop.create_connection(
                self._factory,
                sock=connected,
                ssl=context if req.is_ssl() else None,
                server_hostname=host if req.is_ssl() else None,
            )
        except ssl.SSLCertVerificationError as error:
            connected.close()
            raise ClientConnectorCertificateError(req.connection_key, error) from None
        except ssl.SSLError as error:
            connected.close()
            raise ClientConnectorSSLError(req.connection_key, error) from None
        except BaseException:
            connected.close()
            raise
        return protocol
