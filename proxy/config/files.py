"""Whether the files that a configuration names are there and can be read. Opens those alone that others can read, too.

What is in them is for the rooms to judge that use them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from proxy.config.privacy import Exposure, describe_reader, describe_way_out, judge_file, may_hold_key
from proxy.config.sections import sections

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.config.faults import Finding, KeyPath
    from proxy.config.parsed import Value
    from proxy.config.sections import Section
    from proxy.config.values import Surroundings

_CREDENTIAL_FILES = ("certificate", "private_key", "password_file", "federated_token_file", "ca_file")
_CERTIFICATE_FILES = ("certificate", "private_key", "password_file")
_ROUTE_FILES = ("ca_file", "client_certificate", "client_private_key", "client_password_file")
_LISTENER_TLS_FILES = ("certificate", "private_key", "password_file", "client_ca")
_SECRET_FILES = ("private_key", "password_file")
# With one of these, the key is not in the certificate's file.
_KEY_ELSEWHERE = ("private_key", "signer_command", "key_vault_key")


def check_named_files(root: Section, surroundings: Surroundings) -> Iterator[Finding]:
    """Yield what is wrong with the files that the credentials, routes, listeners and the upstream proxy of a document name."""
    for key, names in (("credentials", _CREDENTIAL_FILES), ("routes", _ROUTE_FILES)):
        for path, section in sections(root, key):
            for name in names:
                yield from _check_file((*path, name), section.get(name), surroundings)
    for path, route in sections(root, "routes"):
        yield from _check_client_secrets(path, route, surroundings)
    for path, credential in sections(root, "credentials"):
        yield from _check_secrets(path, credential, surroundings)
        for inner, section in sections(credential, "certificates"):
            for name in _CERTIFICATE_FILES:
                yield from _check_file((*path, *inner, name), section.get(name), surroundings)
            yield from _check_secrets((*path, *inner), section, surroundings)
    for path, listener in sections(root, "listeners"):
        yield from _check_listener((*path, "tls"), listener.get("tls"), surroundings)
    upstream_proxy = root.get("upstream_proxy")
    if isinstance(upstream_proxy, dict):
        yield from _check_file(("upstream_proxy", "ca_file"), upstream_proxy.get("ca_file"), surroundings)
    yield from _check_ca(root.get("interception"), surroundings)
    yield from _check_admin_token(root.get("admin"), surroundings)
    yield from _check_token_cache(root.get("token_cache"), surroundings)
    log = root.get("access_log")
    if isinstance(log, dict):
        yield from _check_log_file(("access_log", "file"), log.get("file"), surroundings)
    for path, section in sections(root, "token_files"):
        yield from _check_token_file((*path, "path"), section.get("path"), surroundings)


def _check_token_cache(cache: Value, surroundings: Surroundings) -> Iterator[Finding]:
    if not isinstance(cache, dict):
        return
    for name in ("password_file", "ca_file"):
        yield from _check_file(("token_cache", name), cache.get(name), surroundings)
    yield from _check_secret_file(("token_cache", "password_file"), cache.get("password_file"), surroundings)
    keys = cache.get("key_files")
    for index, text in enumerate(keys if isinstance(keys, list) else []):
        yield from _check_file(("token_cache", "key_files", index), text, surroundings)
        yield from _check_secret_file(("token_cache", "key_files", index), text, surroundings)


def _check_listener(path: KeyPath, tls: Value, surroundings: Surroundings) -> Iterator[Finding]:
    if isinstance(tls, dict):
        for name in _LISTENER_TLS_FILES:
            yield from _check_file((*path, name), tls.get(name), surroundings)
        yield from _check_secrets(path, tls, surroundings)


def _located(text: object, surroundings: Surroundings) -> Path | None:
    """Return the path, None where validation has something to say about it."""
    try:
        return surroundings.locate(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _check_file(path: KeyPath, text: object, surroundings: Surroundings) -> Iterator[Finding]:
    file = _located(text, surroundings)
    if file is None:
        return
    try:
        if not file.exists():
            yield path, f"there is no file {file}; relative paths start at {surroundings.directory}"
        elif file.is_dir():
            yield path, f"{file} is a directory; name the file in it"
        elif not os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            yield path, f"{file} cannot be read by the user that runs the proxy, {describe_reader()}"
    except OSError:
        yield path, "the system cannot look up this path; is it too long, or is a directory in it not accessible?"


def _check_secrets(path: KeyPath, section: Section, surroundings: Surroundings) -> Iterator[Finding]:
    """Yield which files with a private key or a password others can read."""
    for name in _SECRET_FILES:
        yield from _check_secret_file((*path, name), section.get(name), surroundings)
    if not any(section.get(name) for name in _KEY_ELSEWHERE):
        yield from _check_key_inside((*path, "certificate"), section.get("certificate"), surroundings)


def _check_client_secrets(path: KeyPath, route: Section, surroundings: Surroundings) -> Iterator[Finding]:
    for name in ("client_private_key", "client_password_file"):
        yield from _check_secret_file((*path, name), route.get(name), surroundings)
    if route.get("client_private_key") is None:
        yield from _check_key_inside((*path, "client_certificate"), route.get("client_certificate"), surroundings)


def _check_key_inside(path: KeyPath, text: object, surroundings: Surroundings) -> Iterator[Finding]:
    """Yield whether others can read a certificate's file, where a private key may be in it, too."""
    file = _located(text, surroundings)
    # Opened only where its mode matters: what is in a pipe can be read once.
    if file is not None and judge_file(file) is Exposure.OPEN and may_hold_key(file):
        yield from _check_secret_file(path, text, surroundings)


def _check_ca(interception: Value, surroundings: Surroundings) -> Iterator[Finding]:
    if not isinstance(interception, dict):
        return
    names = ("ca_certificate", "ca_private_key", "ca_password_file")
    for name in names:
        yield from _check_file(("interception", name), interception.get(name), surroundings)
    for name in names[1:]:
        yield from _check_secret_file(("interception", name), interception.get(name), surroundings)
    if not interception.get("ca_private_key"):
        yield from _check_key_inside(
            ("interception", "ca_certificate"), interception.get("ca_certificate"), surroundings
        )


def _check_admin_token(admin: Value, surroundings: Surroundings) -> Iterator[Finding]:
    if isinstance(admin, dict):
        for check in (_check_file, _check_secret_file):
            yield from check(("admin", "token_file"), admin.get("token_file"), surroundings)


def _check_secret_file(path: KeyPath, text: object, surroundings: Surroundings) -> Iterator[Finding]:
    file = _located(text, surroundings)
    if file is not None and judge_file(file) is Exposure.OPEN:
        yield (
            path,
            f"{file} holds a secret, and other users of this machine can read it; {describe_way_out(file)}",
        )


def _check_log_file(path: KeyPath, text: object, surroundings: Surroundings) -> Iterator[Finding]:
    file = _located(text, surroundings)
    if file is None:
        return
    try:
        if file.is_dir():
            yield path, f"{file} is a directory; name a file in it"
        elif not file.parent.is_dir():
            yield path, f"there is no directory {file.parent}; create it, or write the log elsewhere"
    except OSError:
        yield path, "the system cannot look up this path; is it too long, or is a directory in it not accessible?"


def _check_token_file(path: KeyPath, text: object, surroundings: Surroundings) -> Iterator[Finding]:
    file = _located(text, surroundings)
    if file is None:
        return
    try:
        if file.is_dir():
            yield path, f"{file} is a directory; name a file in it"
        elif not file.parent.is_dir():
            yield path, f"there is no directory {file.parent}; create it, for the proxy and the gateway alone"
        elif not os.access(file.parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            yield path, f"{file.parent} cannot be written to by the user that runs the proxy, {describe_reader()}"
    except OSError:
        yield path, "the system cannot look up this path; is it too long, or is a directory in it not accessible?"
