"""A program that calls an API with a Python library, as its documentation shows, and knows nothing of OAuth. Does I/O.

    python -m tests.end_to_end.clients.python_client LIBRARY

Standard input has one request a line, its parts parted by tabs: method, URL, content in base64, then names and values of
fields. Standard output gets one JSON object a line: what came back. Proxy and CA come from the usual variables.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Fields: TypeAlias = "list[tuple[str, str]]"


class Request(NamedTuple):
    """One line of standard input."""

    method: str
    url: str
    content: bytes | None
    fields: dict[str, str]


class Response(NamedTuple):
    """One line of standard output."""

    status: int
    reason: str
    fields: Fields
    content: bytes


def call_with_requests(calls: Iterable[Request]) -> list[Response]:
    """requests: variables HTTP_PROXY, HTTPS_PROXY, REQUESTS_CA_BUNDLE."""
    import requests

    with requests.Session() as session:
        answers = [session.request(call.method, call.url, data=call.content, headers=call.fields) for call in calls]
        return [
            Response(answer.status_code, answer.reason, list(answer.raw.headers.items()), answer.content)
            for answer in answers
        ]


def call_with_httpx(calls: Iterable[Request]) -> list[Response]:
    """httpx: variables HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE."""
    import httpx

    with httpx.Client(follow_redirects=True) as client:
        answers = [client.request(call.method, call.url, content=call.content, headers=call.fields) for call in calls]
    return [
        Response(
            answer.status_code,
            answer.reason_phrase,
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw],
            answer.content,
        )
        for answer in answers
    ]


def call_with_aiohttp(calls: Iterable[Request]) -> list[Response]:
    """aiohttp: variables HTTP_PROXY, HTTPS_PROXY where `trust_env` is set, SSL_CERT_FILE."""
    import aiohttp

    async def call_all() -> list[Response]:
        answers = []
        async with aiohttp.ClientSession(trust_env=True) as session:
            for call in calls:
                async with session.request(call.method, call.url, data=call.content, headers=call.fields) as answer:
                    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers]
                    answers.append(Response(answer.status, answer.reason or "", fields, await answer.read()))
        return answers

    return asyncio.run(call_all())


def call_with_urllib(calls: Iterable[Request]) -> list[Response]:
    """urllib: variables HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE."""
    answers = []
    for call in calls:
        asked = urllib.request.Request(call.url, call.content, call.fields, method=call.method)  # noqa: S310 - ours
        try:
            answer = urllib.request.urlopen(asked, timeout=20)  # noqa: S310 - likewise
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            answers.append(Response(answer.status, answer.reason, list(answer.headers.items()), answer.read()))
    return answers


LIBRARIES: dict[str, Callable[[Iterable[Request]], list[Response]]] = {
    "requests": call_with_requests,
    "httpx": call_with_httpx,
    "aiohttp": call_with_aiohttp,
    "urllib": call_with_urllib,
}


def main() -> None:
    """Makes the calls."""
    calls = []
    for line in sys.stdin:
        method, url, content, *fields = line.rstrip("\n").split("\t")
        calls.append(
            Request(method, url, base64.b64decode(content) or None, dict(zip(fields[::2], fields[1::2], strict=True)))
        )
    for answer in LIBRARIES[sys.argv[1]](calls):
        encoded = base64.b64encode(answer.content).decode("ascii")
        sys.stdout.write(json.dumps([answer.status, answer.reason, answer.fields, encoded]) + "\n")


if __name__ == "__main__":
    main()
