from __future__ import annotations

import io
import json
import logging
import os
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

from proxy.operations.event_log import EventLog, escape_controls, redact

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("proxy.tests")

JWT = "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJhcGk6Ly9vcmRlcnMifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nsecretsecret\n-----END RSA PRIVATE KEY-----"

SECRETS = [
    pytest.param(f"got {JWT} from it", "got [token] from it", id="token"),
    pytest.param(f"got {JWT.partition('.')[0]}", "got [token]", id="JOSE header alone"),
    pytest.param("Authorization: Bearer abc123.def-456", "Authorization: Bearer [redacted]", id="opaque token"),
    pytest.param(
        "proxy-authorization: basic dXNlcjpwYXNzd29yZA==", "proxy-authorization: basic [redacted]", id="basic"
    ),
    pytest.param(
        "grant_type=client_credentials&client_assertion=abc&scope=x",
        "grant_type=client_credentials&client_assertion=[redacted]&scope=x",
        id="assertion in a form",
    ),
    pytest.param('{"access_token": "abc", "n": 1}', '{"access_token": "[redacted]", "n": 1}', id="token in JSON"),
    pytest.param("Ocp-Apim-Subscription-Key: 0123", "Ocp-Apim-Subscription-Key: [redacted]", id="subscription key"),
    pytest.param("password=hunter2", "password=[redacted]", id="password"),
    pytest.param(f"key: {KEY} end", "key: [private key] end", id="private key"),
    pytest.param(KEY[:60], "[private key]", id="private key cut short"),
]


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_what_looks_like_a_secret_is_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "credential orders-client: no access token for api://orders/.default (AADSTS700027): the signature does not fit",
        "Send a bearer token. Basic authentication is refused.",
        "certificate 0A1B2C3D4E5F60718293A4B5C6D7E8F901234567 ends in 12 days",
        "GET /orders/eyJ",
    ],
)
def test_ordinary_sentences_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü", "plain ü"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\r\x00\x7f\x85", "\\r\\x00\\x7f\\x85"),
        ("\u202e\u2028\ud800", "\\u202e\\u2028\\ud800"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def write() -> Callable[..., list[str]]:
    """Returns what an event log writes while a function runs."""

    def run(events: Callable[[], object], *, name: str = "auto", terminal: bool = False) -> list[str]:
        stream = Terminal() if terminal else io.StringIO()
        log = EventLog(name=name, stream=stream)
        try:
            events()
        finally:
            log.close()
        return stream.getvalue().splitlines()

    return run


def test_an_event_is_a_json_object_when_nobody_reads_along(write: Callable[..., list[str]]) -> None:
    (line,) = write(lambda: logger.warning("the disk of %s is %d %% full", "x", 93))
    event = json.loads(line)
    assert event.pop("time").endswith("Z")
    assert event == {"level": "warning", "logger": "proxy.tests", "message": "the disk of x is 93 % full"}


def test_an_event_is_text_on_a_terminal_with_colour(write: Callable[..., list[str]]) -> None:
    (line,) = write(lambda: logger.error("it failed"), terminal=True)
    assert line.endswith("  \x1b[31mERROR  \x1b[0m  it failed")


def test_text_without_a_terminal_has_no_colour(write: Callable[..., list[str]]) -> None:
    (line,) = write(lambda: logger.error("it failed"), name="text")
    assert line.endswith("Z  ERROR    it failed")


def test_a_message_cannot_forge_a_line(write: Callable[..., list[str]]) -> None:
    lines = write(lambda: logger.info("a\n12:00:00  INFO     forged\x1b[2K"), name="text")
    assert lines[1] == "    12:00:00  INFO     forged\\x1b[2K"


@pytest.mark.logs_own_fault
@pytest.mark.parametrize("name", ["text", "json"])
def test_secrets_in_arguments_and_tracebacks_are_redacted(write: Callable[..., list[str]], name: str) -> None:
    def fail() -> None:
        try:
            raise ValueError(f"cannot parse {JWT}")
        except ValueError:
            logger.exception("with %s", "Bearer abcdefgh12345")

    output = "\n".join(write(fail, name=name))
    assert "ValueError: cannot parse [token]" in output
    assert "with Bearer [redacted]" in output
    assert "eyJ" not in output
    assert "abcdefgh12345" not in output


def test_debug_is_left_out_and_warnings_are_taken_in(write: Callable[..., list[str]]) -> None:
    def talk() -> None:
        logger.debug("chatter")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=True)  # as at start; leaving the block puts pytest's own back
            warnings.warn("old ways", DeprecationWarning, stacklevel=1)

    lines = write(talk)
    assert len(lines) == 1
    assert "old ways" in lines[0]


def test_closing_leaves_logging_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    EventLog(stream=io.StringIO()).close()
    assert (root.level, list(root.handlers)) == before


def test_a_reader_that_takes_nothing_holds_up_nobody() -> None:
    """The pipe fills, the thread waits; events beyond the queue are counted, and closing gives up."""
    read, write_end = os.pipe()
    stream = os.fdopen(write_end, "w")
    log = EventLog(stream=stream, queued=5)
    for _ in range(100):
        logger.warning("x" * 10_000)
    dropped = log.dropped
    log.close(patience_s=0.1)
    assert dropped > 50
    with os.fdopen(read, "rb") as pipe:
        reader = threading.Thread(target=pipe.read)
        reader.start()
        for thread in threading.enumerate():
            if thread.name == "event-log-stop":
                thread.join()
        stream.close()
        reader.join()


def test_a_reader_that_has_gone_is_survived(capfd: pytest.CaptureFixture[str]) -> None:
    read, write_end = os.pipe()
    os.close(read)
    stream = os.fdopen(write_end, "w")
    log = EventLog(stream=stream)
    logger.warning("nobody hears this")
    log.close()
    with pytest.raises(BrokenPipeError):
        stream.close()
    assert capfd.readouterr().err == ""
