"""The JSON Schema of the configuration, and what the comments of config.example.yaml say about each key. Reads that file.

A wheel has it beside this module, a checkout at its top.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import yaml

from proxy.config.settings import Settings
from proxy.config.values import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Schema = dict[str, Any]

_IN_WHEEL: Final = Path(__file__).with_name("example.yaml")
_IN_CHECKOUT: Final = Path(__file__).parents[2] / "config.example.yaml"
# A comment from here on continues the one of the key above; one before it belongs to the key below.
_COLUMN: Final = 30
_COMMENT: Final = re.compile(r"(?:^|\s)#\s?(.*)")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
# Under these keys stand names of the user's choice.
_FREE_NAMES: Final = frozenset({"credentials", "credentials.*.token_parameters", "routes[].set_headers"})


def make_schema() -> Schema:
    """Return the JSON Schema of the configuration, with all definitions below ``$defs``."""
    definitions = msgspec.json.schema(Settings, schema_hook=_describe_type)["$defs"]
    return {**definitions.pop("Settings"), "$defs": definitions}


def _describe_type(kind: type) -> Schema:
    """Return what JSON Schema has for a type of ours."""
    return (
        {"type": "string", "format": "password", "writeOnly": True}
        if kind is Secret
        else {"type": "string", "format": "path"}
    )


def read_example() -> str:
    """Return the text of the example configuration."""
    return (_IN_WHEEL if _IN_WHEEL.exists() else _IN_CHECKOUT).read_text(encoding="utf-8")


def read_descriptions(text: str) -> dict[str, str]:
    """Return each key's first comment by its path: ``routes[].hosts``, ``credentials.*.cloud``."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found: dict[str, str] = {}
    for path, line in _keys(root, "") if root is not None else ():
        if path not in found and (comment := _comment_of(lines, line)):
            found[path] = comment
    return found


def describe_schema(schema: Schema, descriptions: Mapping[str, str]) -> None:
    """Put descriptions into a JSON Schema, in place."""
    for path, owner, key in properties(schema):
        if path in descriptions:
            owner[key] = {**owner[key], "description": descriptions[path]}


def properties(schema: Schema) -> Iterator[tuple[str, Schema, str]]:
    """Yield the properties of a JSON Schema: each one's path, the object that holds it, and its key there."""
    yield from _properties(schema, schema, "")


def _properties(root: Schema, part: Schema, path: str) -> Iterator[tuple[str, Schema, str]]:
    if "$ref" in part:
        part = root["$defs"][part["$ref"].rpartition("/")[2]]
    for option in part.get("anyOf", []):
        yield from _properties(root, option, path)
    if isinstance(part.get("items"), dict):
        yield from _properties(root, part["items"], f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from _properties(root, part["additionalProperties"], f"{path}.*")
    known: Schema = part.get("properties", {})
    for key, value in list(known.items()):
        inner = f"{path}.{key}" if path else key
        yield inner, known, key
        yield from _properties(root, value, inner)


def _keys(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    """Yield the path of each key, with its line."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _keys(item, f"{path}[]")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = "*" if path in _FREE_NAMES else key.value
            inner = f"{path}.{name}" if path else name
            yield inner, key.start_mark.line
            yield from _keys(value, inner)


def _comment_of(lines: Sequence[str], line: int) -> str:
    """Return the comment above a line, that at its end, and what continues it, as one text."""
    above: list[str] = []
    for before in reversed(lines[:line]):
        if not before.lstrip().startswith("#") or _indent(before) >= _COLUMN:
            break
        above.insert(0, _find_comment(before))
    parts = [*above, _find_comment(lines[line])]
    for behind in lines[line + 1 :]:
        if not behind.lstrip().startswith("#") or _indent(behind) < _COLUMN:
            break
        parts.append(_find_comment(behind))
    return " ".join(part for part in parts if part)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _find_comment(line: str) -> str:
    """Return a line's comment; a ``#`` within a word or in quotes of a value begins none."""
    bare = line if line.lstrip().startswith("#") else _QUOTED.sub(lambda quoted: "_" * len(quoted.group()), line)
    found = _COMMENT.search(bare)
    return "" if found is None else line[found.start(1) :].strip()
