"""One TLS connection for diagnosis, in three steps that fail each in their own words: name, TCP, TLS. Does network I/O.

Invariant: nothing is ever sent over a connection whose certificate did not verify.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509

from proxy.dialing.dialer import HOSTS_FILE_NOT_ASKED, Dialer
from proxy.dialing.distrust import explain_distrust
from proxy.dialing.handshake import judge_handshake
from proxy.dialing.lookup import find_in_hosts_file
from proxy.dialing.resolver import NAME_ADVICE, Attempt
from proxy.errors import NameTimeout, ProxyError
from proxy.policy.authority import HTTPS_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.policy.authority import Authority

TIMEOUT_S: Final = 10.0
"""For each of the three steps."""

_NAMES_SHOWN: Final = 6
_BLOCK_BYTES: Final = 65_536


class ProbeFailed(Exception):  # noqa: N818  # what happened, as everywhere in the error tree
    """A step failed.

    Attributes:
        message: what happened, a sentence.
        advice: what to do next.
        code: as `ProxyError.code`, where a handshake failed; else empty.
    """

    def __init__(self, message: str, advice: str, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.code = code


@dataclass(frozen=True, slots=True)
class Connection:
    """An open, verified TLS connection; whoever opened it closes `writer`.

    Attributes:
        reader: what comes.
        writer: what goes.
        address: the IP address that answered, or the upstream proxy, in words.
        connected_s: how long name resolution and TCP took, or the upstream proxy to open a tunnel.
        handshake_s: how long TLS took.
        tls: the protocol version.
        expires: the end of the server's certificate.
        protocol: which the server has chosen of those it was offered (RFC 7301); empty where it has chosen none.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    address: str
    connected_s: float
    handshake_s: float
    tls: str
    expires: datetime
    protocol: str


async def open_connection(
    authority: Authority, dial: Authority | None, context: ssl.SSLContext, dialer: Dialer | None = None
) -> Connection:
    """Return a connection to `dial`, or to the authority itself, whose certificate verifies for the authority's host.

    Args:
        authority: whom to reach.
        dial: where to connect instead.
        context: verifies the certificate.
        dialer: knows whether there is an upstream proxy between; default: there is none.

    Raises:
        ProbeFailed: with the step that failed and what to do.
    """
    target = (
        dial or authority
    )  # a name in `dial` is looked up by DNS alone: below, what is another object than the authority
    dialer = dialer or Dialer()
    begun = time.monotonic()
    proxy = dialer.choose(target.host, target.port, authority.host)
    if proxy is None:
        reader, writer = await _connect(target, await _resolve(target, authority, dialer))
    else:
        reader, writer = await _connect_through(dialer, target, authority)
    connected = time.monotonic()
    address = str(writer.get_extra_info("peername")[0]) if proxy is None else f"the upstream proxy {proxy}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await writer.start_tls(context, server_hostname=authority.host)
    except ssl.SSLCertVerificationError as refusal:
        writer.transport.abort()
        raise await _describe_distrust(authority, target, refusal, dialer) from None
    except ssl.SSLError as failed:
        writer.transport.abort()
        failure = judge_handshake(failed, await _repeat_handshake(authority, target, context, dialer))
        raise ProbeFailed(f"{target} {failure.reason}.", failure.advice, failure.code) from None
    except (TimeoutError, OSError):
        writer.transport.abort()
        raise ProbeFailed(
            f"{target} accepts the connection, and does not complete a TLS handshake.",
            "Is it a TLS port? A proxy or firewall between here and there may cut the handshake.",
        ) from None
    protocol = writer.get_extra_info("ssl_object")
    return Connection(
        reader,
        writer,
        address,
        connected - begun,
        time.monotonic() - connected,
        str(protocol.version()),
        datetime.fromtimestamp(ssl.cert_time_to_seconds(protocol.getpeercert()["notAfter"]), UTC),
        protocol.selected_alpn_protocol() or "",
    )


async def _connect_through(
    dialer: Dialer, target: Authority, authority: Authority
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a tunnel through the upstream proxy."""
    proxy = dialer.choose(target.host, target.port, authority.host)
    advice = f"Compare with: curl --proxy {proxy} https://{describe_port(target)}/"
    attempt = Attempt()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            connected = await dialer.connect(target.host, target.port, name=authority.host, attempt=attempt)
    except TimeoutError:
        if attempt.name:
            raise ProbeFailed(
                f"The name {attempt.name} of the upstream proxy does not resolve in time: no name server of this machine "
                "answers.",
                NAME_ADVICE,
            ) from None
        raise ProbeFailed(
            f"The upstream proxy {proxy} opens no tunnel to {target} within {TIMEOUT_S:g} s.", advice
        ) from None
    except ProxyError as refusal:
        raise ProbeFailed(refusal.detail, advice) from None
    return await asyncio.open_connection(sock=connected)


async def _resolve(target: Authority, authority: Authority, dialer: Dialer) -> Sequence[str]:
    dns_only = target is not authority
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await (dialer.resolver.dns_only if dns_only else dialer.resolver).resolve(target.host)
    except (TimeoutError, NameTimeout):
        raise ProbeFailed(
            f"The name {target.host} does not resolve in time: no name server of this machine answers.", NAME_ADVICE
        ) from None
    except ProxyError:
        if dns_only and find_in_hosts_file(target.host):
            raise ProbeFailed(f"The name {target.host} does not resolve.", HOSTS_FILE_NOT_ASKED) from None
        raise ProbeFailed(
            f"The name {target.host} does not resolve.",
            "Check its spelling and this machine's DNS; for a private endpoint, let `dial` name its address.",
        ) from None


async def _connect(target: Authority, addresses: Sequence[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the first connection that opens; all addresses together have `TIMEOUT_S`."""
    refused = False
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for address in addresses:
                try:
                    return await asyncio.open_connection(address, target.port)
                except ConnectionRefusedError:
                    refused = True
                except OSError:
                    continue
    except TimeoutError:
        raise ProbeFailed(
            f"{target} ({', '.join(addresses)}) does not answer.",
            "A firewall may drop the connection: allow this machine to reach that port.",
        ) from None
    if refused:
        raise ProbeFailed(
            f"{target} ({', '.join(addresses)}) refuses the connection.",
            "Nothing listens there, or a firewall rejects it: check host, port and `dial`.",
        )
    raise ProbeFailed(
        f"{target} ({', '.join(addresses)}) cannot be reached.", "Check this machine's network, routes and firewall."
    )


async def _describe_distrust(
    authority: Authority, target: Authority, refusal: ssl.SSLCertVerificationError, dialer: Dialer
) -> ProbeFailed:
    shown = await _read_certificate(authority, target, dialer)
    distrust = explain_distrust(refusal.verify_code)
    if distrust.code == "tls_expired":
        detail = _describe_end(shown)
    elif distrust.code == "tls_wrong_name":
        detail = f" than {authority.host}{_describe_names(shown)}"
    else:
        detail = _describe_issuer(shown) if distrust.code == "tls_untrusted" else ""
    advice = f"{distrust.advice} Check `dial`, too." if distrust.code == "tls_wrong_name" else distrust.advice
    return ProbeFailed(f"The certificate of {authority} {distrust.what}{detail}.", advice)


async def _read_certificate(authority: Authority, target: Authority, dialer: Dialer) -> x509.Certificate | None:
    """Return the certificate that did not verify, to say more about it. Sends nothing but the handshake."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to look at the certificate, never to speak over the connection
    try:
        async with asyncio.timeout(TIMEOUT_S):
            connected = await dialer.connect(
                target.host, target.port, name=authority.host, dns_only=target is not authority
            )
            _, writer = await asyncio.open_connection(
                sock=connected, ssl=context, server_hostname=authority.host if not authority.is_ip else ""
            )
        try:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.transport.abort()
        return x509.load_der_x509_certificate(der) if der else None
    except (OSError, ValueError, TimeoutError, ProxyError):
        return None


async def _repeat_handshake(
    authority: Authority, target: Authority, context: ssl.SSLContext, dialer: Dialer
) -> ssl.SSLObject | None:
    """Return a TLS object that has got as far as the one before; asyncio gives away none whose handshake failed."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=authority.host)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            with await dialer.connect(
                target.host, target.port, name=authority.host, dns_only=target is not authority
            ) as connected:
                while True:
                    try:
                        tls.do_handshake()
                    except ssl.SSLWantReadError:
                        await loop.sock_sendall(connected, outgoing.read())
                    else:
                        return tls
                    received = await loop.sock_recv(connected, _BLOCK_BYTES)
                    if not received:
                        return tls
                    incoming.write(received)
    except ssl.SSLError:
        return tls
    except (OSError, TimeoutError, ProxyError):
        return None


def _describe_end(shown: x509.Certificate | None) -> str:
    return f" on {shown.not_valid_after_utc:%Y-%m-%d}" if shown is not None else ""


def _describe_issuer(shown: x509.Certificate | None) -> str:
    if shown is None:
        return ""
    if shown.issuer == shown.subject:
        return ": it is self-signed"
    return f": it was issued by {_printable(shown.issuer.rfc4514_string())}"


def _describe_names(shown: x509.Certificate | None) -> str:
    if shown is None:
        return ""
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    texts = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    more = ", …" if len(texts) > _NAMES_SHOWN else ""
    return f": {_printable(', '.join(texts[:_NAMES_SHOWN]))}{more}"


def _printable(text: str) -> str:
    """Return a stranger's text as one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def describe_port(authority: Authority) -> str:
    """Return the authority as people write it: without the port where it is 443."""
    return authority.host_field(HTTPS_PORT).decode("ascii")
