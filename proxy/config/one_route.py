"""A configuration of one route without a file: from options of the command line, and from variables. Does no I/O.

Invariants: an option counts before its variable; an empty variable is none; nothing in a value is replaced from elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.config.faults import Fault, format_key_path, suggest
from proxy.config.parsed import Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from proxy.config.faults import KeyPath
    from proxy.config.parsed import Value

VARIABLE_PREFIX: Final = "APIM_AUTH_PROXY_"
CONFIG_VARIABLE: Final = f"{VARIABLE_PREFIX}CONFIG"
CREDENTIAL: Final = "default"
"""The credential's name, in logs and metrics."""
DEFAULT_LISTENER: Final = "127.0.0.1:8080"

# Kubernetes sets these in every pod for a service whose name begins as ours (Pod networking, "environment variables").
_FOREIGN: Final = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
# CHANNEL is for relay processes.
_OTHER_VARIABLES: Final = {CONFIG_VARIABLE, f"{VARIABLE_PREFIX}CHANNEL"}
_TRUTH: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


class Form(Enum):
    """How the text of an option or a variable is read."""

    TEXT = auto()
    FLAG = auto()
    HOSTS = auto()
    """Several; in a variable between blanks. Each may be written as a URL."""
    FIELDS = auto()
    """Several of ``NAME: VALUE``; in a variable one a line."""


@dataclass(frozen=True, slots=True)
class RouteOption:
    """One option, and the variable of the same meaning.

    Attributes:
        name: as the key in the configuration, with hyphens.
        paths: where the value belongs in a configuration.
        metavar: what stands for the value in help.
        text: the line of help.
        form: how it is read.
        is_secret: there is a variable only, because every user of a machine sees the arguments of its programs.
    """

    name: str
    paths: tuple[KeyPath, ...]
    metavar: str
    text: str
    form: Form = Form.TEXT
    is_secret: bool = False

    @property
    def option(self) -> str:
        """As on the command line."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """As in the environment."""
        return VARIABLE_PREFIX + self.name.upper().replace("-", "_")

    @property
    def parameter(self) -> str:
        """As an argument in Python."""
        return self.name.replace("-", "_")

    @property
    def described(self) -> str:
        """For whoever has to add it."""
        return self.variable if self.is_secret else f"{self.option} ({self.variable})"


_CREDENTIAL: Final[KeyPath] = ("credentials", CREDENTIAL)
_ROUTE: Final[KeyPath] = ("routes", 0)

ROUTE_OPTIONS: Final = (
    RouteOption(
        "route",
        ((*_ROUTE, "hosts"),),
        "URL",
        "The API: https://api.example.com, or a host as in `hosts`. May be repeated.",
        Form.HOSTS,
    ),
    RouteOption("scope", ((*_ROUTE, "scope"),), "SCOPE", "What tokens are for: api://orders/.default"),
    RouteOption("tenant-id", ((*_CREDENTIAL, "tenant_id"),), "ID", "The tenant, as a GUID or a domain."),
    RouteOption("client-id", ((*_CREDENTIAL, "client_id"),), "ID", "The application (client) ID."),
    RouteOption("certificate", ((*_CREDENTIAL, "certificate"),), "FILE", "The registered certificate, PEM or PFX."),
    RouteOption(
        "private-key", ((*_CREDENTIAL, "private_key"),), "FILE", "The certificate's key, if it is in another file."
    ),
    RouteOption(
        "password-file", ((*_CREDENTIAL, "password_file"),), "FILE", "File with the password of the key or PFX."
    ),
    RouteOption(
        "federated-token-file",
        ((*_CREDENTIAL, "federated_token_file"),),
        "FILE",
        "Workload identity, instead of a certificate.",
    ),
    RouteOption(
        "managed-identity",
        ((*_CREDENTIAL, "managed_identity"),),
        "system|ID",
        "The machine's own identity. Leave out --tenant-id and --client-id then.",
    ),
    RouteOption(
        "federated-managed-identity",
        ((*_CREDENTIAL, "federated_managed_identity"),),
        "system|ID",
        "A managed identity that the application trusts, instead of a certificate.",
    ),
    RouteOption(
        "key-vault-key",
        ((*_CREDENTIAL, "key_vault_key"),),
        "URL",
        "A key in Azure Key Vault, instead of --private-key.",
    ),
    RouteOption("client-secret", ((*_CREDENTIAL, "client_secret"),), "SECRET", "", is_secret=True),
    RouteOption("authority", ((*_CREDENTIAL, "authority"),), "URL", "The identity platform, if not Microsoft's."),
    RouteOption(
        "token-endpoint",
        ((*_CREDENTIAL, "token_endpoint"),),
        "URL",
        "Another OAuth 2.0 server. Leave out --tenant-id then.",
    ),
    RouteOption(
        "ca-file",
        ((*_CREDENTIAL, "ca_file"), (*_ROUTE, "ca_file")),
        "FILE",
        "CA certificates to trust, besides the system's, for the API and the token endpoint.",
    ),
    RouteOption("dial", ((*_ROUTE, "dial"),), "HOST:PORT", "Connect to this address to reach the API."),
    RouteOption(
        "set-header",
        ((*_ROUTE, "set_headers"),),
        "'NAME: VALUE'",
        "Set a field on each request. May be repeated. For secrets use the variable: other users can see options.",
        Form.FIELDS,
    ),
    RouteOption(
        "listen", (("listeners", 0, "address"),), "ADDRESS", f"Address to listen on. Default: {DEFAULT_LISTENER}."
    ),
    RouteOption("admin", (("admin", "address"),), "ADDRESS", "Address of the admin site. Default: 127.0.0.1:9901."),
    RouteOption(
        "admin-token-file",
        (("admin", "token_file"),),
        "FILE",
        "File with the token that opens the admin site to other machines.",
    ),
    RouteOption(
        "allow-quit", (("admin", "allow_quit"),), "", "Let POST /quit on the admin site end the proxy.", Form.FLAG
    ),
    RouteOption(
        "allow-any-client",
        (("allow_any_client",),),
        "",
        "Listen on other than loopback addresses: anyone who reaches the proxy uses its identity.",
        Form.FLAG,
    ),
    RouteOption("other-hosts", (("other_hosts",),), "refuse|tunnel", "What to do with other hosts. Default: refuse."),
    RouteOption("state-directory", (("state_directory",),), "DIR", "Where the interception CA is kept."),
)


@dataclass(frozen=True, slots=True)
class _Given:
    option: RouteOption
    texts: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class OneRoute:
    """What options and variables say, as a source of a configuration.

    Attributes:
        given: each option that is given, with its texts and where they come from.
        unknown: variables that look like ours, and are not.
        directory: the working directory.
    """

    given: tuple[_Given, ...] = field(repr=False)
    unknown: tuple[str, ...]
    directory: Path

    @property
    def name(self) -> str:
        """None: a fault names its option."""
        return ""

    @property
    def title(self) -> str:
        """Without names, of which there may be twenty."""
        return "options and variables"

    @property
    def files(self) -> tuple[Path, ...]:
        """None: neither arguments nor variables of a process change."""
        return ()

    def read(self) -> Document:
        """Return the configuration that the options stand for; what cannot be read is among its faults."""
        document = _Document(self.given)
        for name in self.unknown:
            document.faults.append(Fault(name, 0, describe_unknown_variable(name)))
        _put(document.root, ("listeners", 0, "address"), DEFAULT_LISTENER)
        _put(document.root, (*_ROUTE, "credential"), CREDENTIAL)
        _put(document.root, _CREDENTIAL, {})
        for given in self.given:
            value = _read(given, document)
            if value is not None:
                for path in given.option.paths:
                    _put(document.root, path, value)
        credentials = document.root["credentials"]
        credential = credentials[CREDENTIAL] if isinstance(credentials, dict) else None
        if isinstance(credential, dict) and "managed_identity" in credential:
            credential.pop(
                "ca_file", None
            )  # The option is for the API as well; a machine's own endpoint speaks plain http.
        return document

    def variables(self) -> dict[str, str]:
        """Return all of it as variables, for a process of ours."""
        separators = {Form.HOSTS: " ", Form.FIELDS: "\n"}
        return {each.option.variable: separators.get(each.option.form, "").join(each.texts) for each in self.given}


def collect_one_route(
    options: Mapping[str, Iterable[str]], environ: Mapping[str, str], directory: Path
) -> OneRoute | None:
    """Return what options and variables say; None where they say nothing.

    Args:
        options: from the command line, by `RouteOption.parameter`; without texts where not given.
        environ: the variables.
        directory: the working directory, absolute.
    """
    given = tuple(_collect(options, environ))
    if not given:
        return None
    return OneRoute(given, find_unknown_variables(environ), directory)


def find_unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that look like ours, and are not: typing errors, most likely."""
    known = {option.variable for option in ROUTE_OPTIONS} | _OTHER_VARIABLES
    unknown = [
        name
        for name, value in environ.items()
        if value and name.startswith(VARIABLE_PREFIX) and name not in known
        if not _FOREIGN.fullmatch(name.removeprefix(VARIABLE_PREFIX))
    ]
    return tuple(sorted(unknown))


def describe_unknown_variable(name: str) -> str:
    """Return what is to be said of one."""
    return f"there is no such variable; {suggest(name, [option.variable for option in ROUTE_OPTIONS])}"


def _collect(options: Mapping[str, Iterable[str]], environ: Mapping[str, str]) -> Iterator[_Given]:
    for option in ROUTE_OPTIONS:
        texts = tuple(options.get(option.parameter, ()))
        if texts:
            yield _Given(option, texts, option.option)
        elif text := environ.get(option.variable, ""):
            yield _Given(option, tuple(_split(text, option.form)), option.variable)


def _split(text: str, form: Form) -> list[str]:
    if form is Form.HOSTS:
        return text.split()
    return [line for line in text.splitlines() if line.strip()] if form is Form.FIELDS else [text]


class _Document(Document):
    """A document whose faults name options in place of lines."""

    __slots__ = ("_labels",)

    def __init__(self, given: Iterable[_Given]) -> None:
        super().__init__({})
        self._labels: dict[KeyPath, str] = {path: each.described for each in ROUTE_OPTIONS for path in each.paths}
        self._labels |= {path: each.origin for each in given for path in each.option.paths}
        self._labels[_CREDENTIAL] = "credential"
        self._labels["routes",] = self._labels[(*_ROUTE, "hosts")]

    def fault(self, path: KeyPath, message: str) -> Fault:
        """Return a fault at the option that a path stands for."""
        for length in range(len(path), 0, -1):
            if label := self._labels.get(path[:length]):
                return Fault(label, 0, message)
        return Fault(format_key_path(path), 0, message)


def _read(given: _Given, document: Document) -> Value:
    """Return the value that an option has in a configuration; None, and a fault, where its text is none."""
    match given.option.form:
        case Form.TEXT:
            return _literal(given.texts[-1])
        case Form.HOSTS:
            return [_literal(_read_host(text)) for text in given.texts]
        case Form.FLAG:
            found = _TRUTH.get(given.texts[-1].lower())
            if found is None:
                document.faults.append(Fault(given.origin, 0, "write true or false"))
            return found
        case Form.FIELDS:
            fields: dict[str, Value] = {}
            for text in given.texts:
                name, colon, value = text.partition(":")
                if not colon:
                    document.faults.append(Fault(given.origin, 0, "write NAME: VALUE, in a variable one a line"))
                    document.spoiled.add(given.option.paths[0])
                else:
                    fields[name.strip()] = _literal(value.strip())
            return fields


def _read_host(text: str) -> str:
    """Return the host of ``https://host[:port][/]``; any other text as it is, for the configuration to judge."""
    parts = urlsplit(text) if text.lower().startswith("https://") else None
    return parts.netloc if parts is not None and parts.path in ("", "/") and not parts.query else text


def _literal(text: str) -> str:
    """Return what the configuration reads as this very text: a shell has replaced what it should."""
    return text.replace("${", "$${")


def _put(root: dict[str, Value], path: KeyPath, value: Value) -> None:
    """Write a value into the tree, which grows as needed; only first items of lists are written."""
    first, *rest = path
    assert isinstance(first, str)  # noqa: S101  # as all paths above
    if not rest:
        root[first] = value
        return
    if rest[0] == 0:
        items = root.setdefault(first, [{}])
        inner = items[0] if isinstance(items, list) else None
        rest = rest[1:]
    else:
        inner = root.setdefault(first, {})
    if isinstance(inner, dict):
        _put(inner, tuple(rest), value)
