"""From plain values to `Settings`, with sentences of ours for what pydantic finds. Does no I/O."""

from __future__ import annotations

import difflib
import functools
import re
from typing import TYPE_CHECKING, get_args

from pydantic import ValidationError

from proxy.config.faults import suggest
from proxy.config.settings import Model, Settings

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic_core import ErrorDetails

    from proxy.config.faults import Finding, KeyPath
    from proxy.config.parsed import Value
    from proxy.config.values import Surroundings

_REQUIRED = {
    "listeners": "the addresses to listen on, such as '- address: 127.0.0.1:8080'",
    "credentials": "how the proxy signs in to the identity platform, each under a name of your choice",
    "routes": "which hosts get a token, and for what",
    "state_directory": "neither XDG_STATE_HOME nor HOME is set in the environment, so there is no default",
    "address": "where to listen, such as 127.0.0.1:8080",
    "certificate": "the PEM or PFX file of the certificate that is registered for the application",
    "hosts": "the hosts that this route is for, such as [contoso.azure-api.net]",
    "credential": "the name of an entry in credentials",
    "scope": "what tokens are for, such as api://orders/.default",
}
_NEVER_KEYS = {
    "password": "passwords do not belong in this file; put it into a separate file, and name that in password_file",
}
_EXPECTED = {
    "string_type": "text",
    "path_type": "a path",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list, such as [a, b] or one item per line after '- '",
    "dict_type": "a mapping of 'key: value' lines",
    "model_type": "a mapping of 'key: value' lines",
}
_NUMBERS = {"int_type": int, "float_type": float}
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def validate(
    root: dict[str, Value], surroundings: Surroundings, substituted: Collection[KeyPath]
) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, or None and what is wrong with single values.

    Text from the environment becomes a number or a truth value where one is meant; `root` is changed to hold it.

    Args:
        root: the document's values, references to the environment replaced.
        surroundings: what paths are relative to.
        substituted: where text came from the environment.
    """
    try:
        return Settings.model_validate(root, context=surroundings), []
    except ValidationError as error:
        # Where an item of a list is bad, pydantic says too that the list is short of it.
        problems = [
            problem
            for problem in error.errors(include_url=False)
            if problem["type"] != "too_short" or not problem["input"]
        ]
    retyped = [_retype(root, problem) for problem in problems if _path(problem) in substituted]
    if any(retyped):
        return validate(root, surroundings, ())
    return None, [(_path(problem), _explain(problem)) for problem in problems]


def _path(problem: ErrorDetails) -> KeyPath:
    path = problem["loc"]
    return path[:-1] if path[-1:] == ("[key]",) else path


def _retype(root: dict[str, Value], problem: ErrorDetails) -> bool:
    text, expected = str(problem["input"]).strip(), problem["type"]
    typed: bool | float | None = None
    if expected == "bool_type":
        typed = _TRUTH.get(text.lower())
    elif expected in _NUMBERS:
        try:
            typed = _NUMBERS[expected](text)
        except ValueError:
            return False
    if typed is None:
        return False
    *parents, last = _path(problem)
    holder: Value = root
    for part in parents:
        holder = holder[part]  # type: ignore[index]  # the path is pydantic's, of this very tree
    holder[last] = typed  # type: ignore[index]  # as above
    return True


def _explain(problem: ErrorDetails) -> str:
    kind, value = problem["type"], problem["input"]
    limits = problem.get("ctx", {})
    if kind == "value_error":
        return str(limits["error"])
    if kind == "missing":
        return f"this key is required: {_REQUIRED.get(str(problem['loc'][-1]), 'add it')}"
    if kind == "extra_forbidden":
        return _explain_unknown(_path(problem))
    if kind in ("too_short", "string_too_short"):
        return "this is empty; at least one is needed" if kind == "too_short" else "this is empty; write a value"
    if kind in ("enum", "literal_error"):
        return f"write {limits['expected']}{_nearest(value, limits['expected']) if isinstance(value, str) else _reading(value)}"
    if kind in ("greater_than", "greater_than_equal", "less_than_equal"):
        return _explain_bound(kind, limits)
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}{_reading(value)}{_advice(kind, value)}"
    return "this value cannot be used; config.example.yaml shows what to write"


def _explain_unknown(path: KeyPath) -> str:
    key = str(path[-1])
    if key in _NEVER_KEYS:
        return _NEVER_KEYS[key]
    model: type[Model] = Settings
    for part in path[:-1]:
        # Indices, and the names of credentials, are no fields and lead nowhere.
        setting = model.model_fields.get(str(part))
        model = model if setting is None else _model_in(setting.annotation) or model
    homes = _homes().get(key, ())
    if homes:
        return f"there is no such key here; it belongs {' or '.join(homes)}"
    return f"there is no such key; {suggest(key, model.model_fields)}"


@functools.cache
def _homes() -> dict[str, tuple[str, ...]]:
    """Return where each key of the configuration belongs, as words."""
    homes: dict[str, tuple[str, ...]] = {}
    pending: list[tuple[type[Model], str]] = [(Settings, "at the top of the file")]
    while pending:
        model, place = pending.pop(0)
        for name, setting in model.model_fields.items():
            homes[name] = (*homes.get(name, ()), place)
            inner = _model_in(setting.annotation)
            if inner is not None:
                above = "" if model is Settings else f"{place.removeprefix('under ').strip('`')}."
                pending.append((inner, f"under `{above}{name}`"))
    return homes


def _model_in(annotation: object) -> type[Model] | None:
    """Return the section in ``X``, ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    candidates = (annotation, *get_args(annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Model)), None)


def _nearest(word: str, expected: str) -> str:
    """Name the word that was probably meant, if one of those that pydantic lists is near."""
    nearest = difflib.get_close_matches(word, re.findall(r"'([^']*)'", expected), n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def _explain_bound(kind: str, limits: dict[str, float]) -> str:
    if kind == "greater_than":
        return f"expected a number greater than {limits['gt']:g}"
    if kind == "greater_than_equal":
        return f"expected a number of at least {limits['ge']:g}"
    return f"expected a number of at most {limits['le']:.15g}"


def _reading(value: object) -> str:
    """Return how YAML understood what is written, without the value itself."""
    if value is None:
        return ", but there is no value"
    for kind, words in (
        (bool, "true or false"),
        (int | float, "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "a mapping"),
    ):
        if isinstance(value, kind):
            return f", but this is {words} in YAML"
    return ""


def _advice(kind: str, value: object) -> str:
    if value is None:
        return "; write a value or remove the key"
    if kind in ("string_type", "path_type") and isinstance(value, int | float):
        return "; put it in quotes"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        return "; write it without quotes or units"
    return ""
