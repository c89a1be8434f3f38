"""Which environment variables make programs use a proxy and trust its CA. Pure: does no I/O.

Some runtimes *replace* their roots by the file such a variable names, others add it: so the file is always a merged one, with
the system's roots in it, and serves both.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TRUSTSTORE_PASSWORD: Final = "changeit"  # noqa: S105  # what Java's own store has; it protects nothing, it only has to be there

# In the directory of settings, for programs that take a CA from there alone, and their settings from where a variable says.
WGETRC: Final = "wgetrc"
PHP_SETTINGS: Final = "php"

# Not for proxies: this machine, and the metadata service that gives managed identities their tokens.
_DIRECT: Final = ("localhost", "127.0.0.1", "::1", "169.254.169.254")

_JAVA_PROPERTIES: Final = (
    "-Dhttp.proxy",
    "-Dhttps.proxy",
    "-Dhttp.nonProxyHosts=",
    "-Djavax.net.ssl.trustStore",
    "-Djdk.http.auth.tunneling.disabledSchemes=",
)


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable.

    Attributes:
        name: of the variable.
        value: its value.
        readers: the programs that read it, for people.
    """

    name: str
    value: str
    readers: str


@dataclass(frozen=True, slots=True)
class Setup:
    """What a program has to know.

    Attributes:
        proxy_url: ``http://host:port``, without a slash behind it.
        bundle: PEM: the system's roots and the interception CA.
        truststore: the bundle as PKCS#12 for Java.
        settings: a directory with settings of programs that read no variable for a CA; None where they are not to be had.
        has_wgetrc: whether the user has settings of wget already, which ours would replace.
        routed_hosts: hosts that must go through the proxy, without ports; ``*.`` stands for a wildcard.
    """

    proxy_url: str
    bundle: PurePath
    truststore: PurePath
    routed_hosts: tuple[str, ...]
    settings: PurePath | None = None
    has_wgetrc: bool = False


def list_variables(setup: Setup, environ: Mapping[str, str]) -> list[Variable]:
    """Return every variable, in the order in which they are shown.

    Args:
        setup: what to point to.
        environ: the present values, of which ``NO_PROXY`` and ``JAVA_TOOL_OPTIONS`` are kept as far as they do no harm.
    """
    bundle = str(setup.bundle)
    direct = list_direct_hosts(setup.routed_hosts, environ)
    variables = [
        *_both_cases("HTTP_PROXY", setup.proxy_url, "nearly every program, for http URLs"),
        *_both_cases("HTTPS_PROXY", setup.proxy_url, "nearly every program, for https URLs"),
        *_both_cases("NO_PROXY", ",".join(direct), "nearly every program: hosts to call directly"),
        Variable("SSL_CERT_FILE", bundle, "OpenSSL, Python ssl and httpx, Go on Linux, Ruby, .NET on Linux, Rust, PHP"),
        Variable("REQUESTS_CA_BUNDLE", bundle, "Python requests, Azure CLI"),
        Variable("CURL_CA_BUNDLE", bundle, "curl"),
        Variable("NODE_EXTRA_CA_CERTS", bundle, "Node.js, which adds them to roots of its own"),
        Variable("NODE_USE_ENV_PROXY", "1", "Node.js 22.21 and later, which reads the proxy variables only then"),
        Variable("GIT_SSL_CAINFO", bundle, "git"),
        Variable("PERL_LWP_SSL_CA_FILE", bundle, "Perl's LWP"),
        Variable("PIP_CERT", bundle, "pip"),
        Variable("npm_config_cafile", bundle, "npm"),
        Variable("AWS_CA_BUNDLE", bundle, "AWS CLI, boto3"),
        Variable("CARGO_HTTP_CAINFO", bundle, "cargo"),
        Variable("DENO_CERT", bundle, "Deno, which adds them to roots of its own"),
        Variable("BUNDLE_SSL_CA_CERT", bundle, "Ruby's bundler"),
        Variable("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", bundle, "Google Cloud CLI"),
        Variable("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", bundle, "gRPC"),
    ]
    if setup.settings is not None:
        variables += _list_settings(setup.settings, environ, has_wgetrc=setup.has_wgetrc)
    options = format_java_options(setup, direct)
    variables.append(Variable("JAVA_TOOL_OPTIONS", " ".join([*_foreign_java_options(environ), options]), "Java"))
    return variables


def _list_settings(directory: PurePath, environ: Mapping[str, str], *, has_wgetrc: bool) -> list[Variable]:
    found = []
    own = str(directory / WGETRC)
    if not has_wgetrc and environ.get("WGETRC", own) == own:
        found.append(Variable("WGETRC", own, "wget, whose GnuTLS reads no variable"))
    # An empty entry stands for PHP's own directories.
    added = f"{os.pathsep}{directory / PHP_SETTINGS}"
    earlier = environ.get("PHP_INI_SCAN_DIR", "").removesuffix(added)
    found.append(Variable("PHP_INI_SCAN_DIR", f"{earlier}{added}", "PHP, whose curl reads no variable"))
    return found


def list_names() -> list[str]:
    """Return the names of all variables, in the order in which they are shown."""
    nothing = Setup("http://localhost:1", PurePosixPath(), PurePosixPath(), (), PurePosixPath())
    return [variable.name for variable in list_variables(nothing, {})]


def list_earlier(environ: Mapping[str, str]) -> list[Variable]:
    """Return what the user's own values were before, of variables to which ours were added."""
    exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    own = [entry for entry in exempt.split(",") if entry and entry not in _DIRECT]
    earlier = _both_cases("NO_PROXY", ",".join(own), "") if own else []
    if options := _foreign_java_options(environ):
        earlier.append(Variable("JAVA_TOOL_OPTIONS", " ".join(options), ""))
    return earlier


def list_direct_hosts(routed_hosts: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """Return the hosts to call directly: loopback, metadata, and what the environment exempts; never a routed host.

    An exemption such as ``.contoso.com`` or ``*`` that covers a routed host is left out whole: there is no syntax for "but".
    """
    earlier = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    wanted = [*_DIRECT, *(entry.strip() for entry in earlier.split(","))]
    routed = list(routed_hosts)
    return [
        entry for entry in dict.fromkeys(wanted) if entry and not any(_exempts(entry.lower(), host) for host in routed)
    ]


def format_java_options(setup: Setup, direct: Iterable[str]) -> str:
    """Return the options that make a Java program use the proxy and the truststore."""
    url = urlsplit(setup.proxy_url)
    host, port = url.hostname or "", url.port or 80
    options = [f"-D{scheme}.proxy{what}" for scheme in ("http", "https") for what in (f"Host={host}", f"Port={port}")]
    options += [
        # https has no list of its own; an empty one replaces Java's default, which is loopback.
        f"-Dhttp.nonProxyHosts={'|'.join(_java_pattern(entry) for entry in direct)}",
        f"-Djavax.net.ssl.trustStore={setup.truststore}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={TRUSTSTORE_PASSWORD}",
        # By default a JDK sends no Basic credentials to a proxy that it asks for a tunnel.
        "-Djdk.http.auth.tunneling.disabledSchemes=",
    ]
    return " ".join(f'"{option}"' if " " in option else option for option in options)


def _foreign_java_options(environ: Mapping[str, str]) -> list[str]:
    """Return the options that are set already, without those we set: by us, in an environment that `env` made."""
    words: list[str] = re.findall(r'"[^"]*"|\'[^\']*\'|\S+', environ.get("JAVA_TOOL_OPTIONS", ""))
    return [word for word in words if not word.lstrip("\"'").startswith(_JAVA_PROPERTIES)]


def _both_cases(name: str, value: str, readers: str) -> list[Variable]:
    # curl reads http_proxy in lower case only, since CGI makes HTTP_PROXY out of a request's Proxy field; others one or the other.
    return [Variable(name, value, readers), Variable(name.lower(), value, readers)]


def _exempts(entry: str, routed: str) -> bool:
    name = _host_of(entry)
    if name == "*":
        return True
    suffix = name.removeprefix("*").lstrip(".")
    wildcard = routed.startswith("*.")
    host = routed.removeprefix("*.")
    # Most programs take "contoso.com" for every name below it, too.
    return host == suffix or host.endswith(f".{suffix}") or (wildcard and suffix.endswith(f".{host}"))


def _host_of(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, colon, port = entry.rpartition(":")
    return host if colon and port.isdigit() and ":" not in host else entry


def _java_pattern(entry: str) -> str:
    host = _host_of(entry)
    if ":" in host:
        return f"[{host}]"
    return f"*{host}" if host.startswith(".") else host
