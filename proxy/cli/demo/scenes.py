"""What the demo plays, scene by scene, and what has to hold in each. Does I/O through the stage and the client.

Nothing is asserted that was not measured: counts are the sandbox's own, statuses and contents the client's.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Final

from proxy.cli.demo.client import Call, choose_client
from proxy.cli.demo.stage import PROXY_CA, DemoError
from proxy.cli.demo.timing import ROUNDS, measure
from proxy.config.loading import load_settings
from proxy.doctor.online import build_sources, target_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.cli.demo.client import Client, Reply
    from proxy.cli.demo.narrator import Narrator
    from proxy.cli.demo.stage import Stage

_PATH: Final = "/orders"
_KEY_FIELD: Final = "Ocp-Apim-Subscription-Key"
_UNICODE_PICTURE: Final = """\
client ───────▶ apim-auth-proxy ───────▶ API Management ───────▶ API
                  │          ▲
        assertion │          │ access token
                  ▼          │
             Microsoft Entra ID"""
_TIMES: Final = frozenset({"exp", "nbf", "iat"})


class Play:
    """One performance.

    Args:
        stage: entered.
        narrator: who tells it.
        client: ``auto``, ``curl`` or ``python``.
    """

    def __init__(self, stage: Stage, narrator: Narrator, client: str) -> None:
        self._stage = stage
        self._narrator = narrator
        self._client: Client = choose_client(stage.directory, client)

    async def perform(self) -> None:
        """Play every scene.

        Raises:
            DemoError: something did not hold.
        """
        await self._set_the_stage()
        await self._call_bare()
        await self._show_assertion()
        first = await self._call_through_proxy()
        await self._call_again()
        await self._call_https()
        self._show_token(first)
        await self._measure()
        await self._end()

    async def _set_the_stage(self) -> None:
        sandbox, say = self._stage.sandbox, self._narrator
        say.heading("The stage")
        await self._stage.proxy.start()
        say.rows(
            [
                ("identity platform", f"{sandbox.identity_url}, plays Microsoft Entra ID"),
                ("API Management", f"{sandbox.api_url}, plays it, and the API behind it"),
                ("the proxy", f"{self._stage.proxy.url}, `apim-auth-proxy run --config config.yaml`"),
                ("the client", f"{self._client.name}, which cannot do OAuth"),
            ]
        )

    async def _call_bare(self) -> None:
        say = self._narrator
        say.scene("A program that cannot do OAuth calls the API")
        call = Call(f"{self._stage.sandbox.api_url}{_PATH}", ca_file="ca.pem")
        shown = Call(call.url, ca_file=call.ca_file, fields={_KEY_FIELD: "$KEY"})
        sent = Call(call.url, ca_file=call.ca_file, fields={_KEY_FIELD: self._stage.sandbox.subscription_key})
        say.command(self._client.words(shown))
        reply = await self._client.send(sent)
        say.response(reply.status, reply.content.decode("utf-8", "replace"))
        self._expect(
            reply.status == 401 and b"Access token is missing or invalid" in reply.content,
            "The gateway's validate-jwt policy refuses it: the subscription key is right, and there is no token.",
            "The gateway should have refused a request without a token with 401.",
        )

    async def _show_assertion(self) -> None:
        say = self._narrator
        say.scene("The proxy proves who it is, with a certificate")
        say.tell(
            "As it started, it signed this client assertion (RFC 7523) with its private key and posted it to the token "
            "endpoint. No shared secret travels."
        )
        request = await self._stage.wait_for_token()
        header, claims = request.assertion_header or {}, request.assertion_claims or {}
        form: dict[str, str] = dict(request.form)
        say.rows([(name, _readable(name, value)) for name, value in header.items()], title="JOSE header")
        say.rows([(name, _readable(name, value)) for name, value in claims.items()], title="Claims")
        form["client_assertion"] = "header and claims above, and a signature that nobody is shown"
        names = ("grant_type", "client_id", "scope", "client_assertion")
        say.rows([(name, form[name]) for name in names if name in form], title="Form of the token request")
        self._expect(
            request.status == 200 and header.get("alg") == "PS256" and "x5t#S256" in header,
            "The identity platform found the certificate by its thumbprint, verified the signature, and issued a token.",
            f"The assertion should have been PS256 with x5t#S256, and accepted; it was answered {request.status}.",
        )

    async def _call_through_proxy(self) -> Reply:
        say = self._narrator
        say.scene("The same program, through the proxy")
        say.tell("Nothing changes but a variable. An http URL needs no CA: the proxy sends it on over verified TLS.")
        reply = await self._send(Call(f"http://{self._stage.api_authority}{_PATH}", proxy=self._stage.proxy.url))
        fields = _parse_echo(reply)
        say.rows(
            [
                ("what reached the API", f"Authorization: {fields.get('authorization', '(none)')}"),
                ("", f"{_KEY_FIELD}: {fields.get(_KEY_FIELD.lower(), '(none)')}"),
            ]
        )
        self._expect(
            reply.status == 200 and fields.get("authorization", "").startswith("Bearer "),
            "200: the proxy put the access token and the subscription key on the request.",
            "The API should have answered 200 to a request with a token.",
        )
        return reply

    async def _call_again(self) -> None:
        self._narrator.scene("Again: the token is kept")
        reply = await self._send(Call(f"http://{self._stage.api_authority}{_PATH}", proxy=self._stage.proxy.url))
        self._expect(reply.status == 200, "200 once more.", "The API should have answered 200.")
        self._expect_one_request()

    async def _call_https(self) -> None:
        say = self._narrator
        say.scene("An https URL: CONNECT")
        say.tell(
            "The client's TLS ends at the proxy, so the client trusts the proxy's CA, which can sign for the routed hosts "
            "and no others. `apim-auth-proxy ca export` prints it."
        )
        self._stage.export_ca()
        call = Call(f"https://{self._stage.api_authority}{_PATH}", proxy=self._stage.proxy.url, ca_file=PROXY_CA)
        reply = await self._send(call)
        fields = _parse_echo(reply)
        self._expect(
            reply.status == 200 and fields.get("authorization", "").startswith("Bearer "),
            "200: the same token, inside a CONNECT tunnel.",
            "The API should have answered 200 to the request inside the tunnel.",
        )
        self._expect_one_request()

    def _show_token(self, reply: Reply) -> None:
        say = self._narrator
        say.scene("What the token says")
        claims = json.loads(reply.content)["token"]["claims"]
        say.tell("As the API read it, after the gateway had verified its signature:")
        say.rows([(name, _readable(name, value)) for name, value in claims.items()])
        self._expect(
            claims.get("azp") == self._stage.sandbox.client_id and bool(claims.get("roles")),
            "It names this client (azp), and the app role it was granted (roles).",
            "The token should have named the client and its role.",
        )

    async def _measure(self) -> None:
        say, sandbox = self._narrator, self._stage.sandbox
        say.scene("What it costs")
        settings = await asyncio.to_thread(load_settings, self._stage.config, os.environ)
        route = settings.routes[0]
        sources = build_sources(settings, route.credential)
        try:
            token = await sources.source_for(route.credential, target_of(route)).acquire()
        finally:
            await sources.close()
        fields = {"Authorization": f"Bearer {token.value}", _KEY_FIELD: sandbox.subscription_key}
        arguments = (sandbox.api_url, _PATH, self._stage.directory / "ca.pem", fields, self._stage.proxy.url)
        try:
            timings = await asyncio.to_thread(measure, *arguments)
        except (OSError, HTTPException) as error:
            raise DemoError(f"A request failed while time was taken ({type(error).__name__}).") from None
        added_ms = timings.proxied_ms - timings.direct_ms
        say.tell(f"Medians of {ROUNDS} requests each way, in turns, on connections that are kept open:")
        say.rows(
            [
                ("directly, with a token", f"{timings.direct_ms:5.2f} ms"),
                ("through the proxy", f"{timings.proxied_ms:5.2f} ms"),
                ("difference", f"{added_ms:+5.2f} ms"),
            ]
        )
        say.held(f"All {2 * ROUNDS} were answered 200.")

    async def _end(self) -> None:
        say = self._narrator
        say.scene("The proxy is told to stop (SIGTERM)")
        exit_code = await self._stage.proxy.stop()
        # Windows knows no SIGTERM: the process is ended there, and its exit code says nothing.
        self._expect(
            exit_code == 0 or os.name == "nt",
            "It finishes what is in flight, and ends with exit code 0.",
            f"It should have ended with exit code 0, not {exit_code}.",
        )

    async def _send(self, call: Call) -> Reply:
        self._narrator.command(self._client.words(call))
        reply = await self._client.send(call)
        self._narrator.response(reply.status, _summarise(reply))
        return reply

    def _expect_one_request(self) -> None:
        count = self._stage.sandbox.token_request_count
        self._expect(
            count == 1,
            "Token requests that the identity platform has seen so far: 1.",
            f"The identity platform should have seen 1 token request; it saw {count}.",
        )

    def _expect(self, condition: bool, held: str, failed: str) -> None:
        if not condition:
            raise DemoError(failed)
        self._narrator.held(held)


def picture(arrows: bool) -> str:
    """Return the drawing of the flow; without arrows for streams that show ASCII alone."""
    if arrows:
        return _UNICODE_PICTURE
    return _UNICODE_PICTURE.translate(str.maketrans("─▶│▲▼", "->|^v"))


def _parse_echo(reply: Reply) -> Mapping[str, str]:
    """Return the request's fields as the API saw them, by lower-case name; none where it was not the API that answered."""
    try:
        fields = json.loads(reply.content)["fields"]
        return {str(name).lower(): str(value) for name, value in fields}
    except (ValueError, KeyError, TypeError):
        return {}


def _summarise(reply: Reply) -> str:
    """Return what the API says of a request in short, or any other content as it is."""
    try:
        echo = json.loads(reply.content)
        return f'{{"method": "{echo["method"]}", "target": "{echo["target"]}", ..., "token": {{...}}}}'
    except (ValueError, KeyError, TypeError):
        return reply.content.decode("utf-8", "replace")


def _readable(name: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name in _TIMES and isinstance(value, int):
        minutes = round((value - time.time()) / 60)
        when = f"in {minutes} min" if minutes >= 0 else f"{-minutes} min ago"
        return f"{value} ({datetime.fromtimestamp(value, UTC):%H:%M:%S} UTC, {when})"
    return str(value)
