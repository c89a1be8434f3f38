"""The page of every key of the configuration, from the settings' schema and the example's comments. Reads the example."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from proxy.config.descriptions import make_schema, properties, read_descriptions, read_example
from website.since import since

_INTRODUCTION: Final = """\
# Configuration keys

Every key of the configuration file, made from the code of this version. [config.example.yaml](../../config.example.yaml) shows
all of them in one file that loads. Only `listeners`, `credentials` and `routes` are required.

Your editor can check the file while you type. Write the schema once, then name it in the file's first line:

```sh
apim-auth-proxy config schema > schema.json
```

```yaml
# yaml-language-server: $schema=schema.json
```

In any value, `${NAME}` is replaced with an environment variable, and `${NAME:-default}` gives a default for one that is unset or
empty. Write `$${` for a literal `${`. Relative paths start at the file's own directory, and `~` is your home directory.
`[]` stands for each item of a list, and `*` for a name that you choose.
"""
_TYPES: Final = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number"}
_FORMATS: Final = {"path": "path", "password": "text, secret"}
# As the example's comments have it, at their start or behind a condition: "reverse only, default: none. …".
_STATED_DEFAULT: Final = re.compile(r"(?:^|, |(?<=\. ))[Dd]efault: ((?:[^.;]|\.(?! |$))*)(?:[.;] |\.?$)")


def format_keys() -> str:
    """Return the page."""
    schema = make_schema()
    descriptions = read_descriptions(read_example())
    required = _required(schema)
    parts = [_INTRODUCTION]
    for path, owner, key in properties(schema):
        if not re.search(r"[.\[]", path):
            text = descriptions.get(path, "")
            has_inner = _has_inner(schema, owner[key])
            shown = _STATED_DEFAULT.sub(_join, text) if has_inner else ""
            parts.append(f"\n## `{path}`\n\n{_sentence(shown.strip())}\n\n{_table_head()}")
            if not has_inner:
                parts.append(_format_row(schema, path, owner[key], text, path in required))
        else:
            parts.append(_format_row(schema, path, owner[key], descriptions.get(path, ""), path in required))
    return "".join(parts)


def _table_head() -> str:
    return "| key | type | default | unit | since | meaning |\n|---|---|---|---|---|---|\n"


def _format_row(schema: dict[str, Any], path: str, value: dict[str, Any], text: str, is_required: bool) -> str:
    stated = _STATED_DEFAULT.search(text)
    default = "**required**" if is_required else _default(value, stated[1] if stated else "none")
    meaning = _STATED_DEFAULT.sub(_join, text, count=1).strip()
    cells = (f"`{path}`", _type(schema, value), default, _unit(path), since(path), _sentence(meaning))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _has_inner(schema: dict[str, Any], value: dict[str, Any]) -> bool:
    return next(properties({**value, "$defs": schema["$defs"]}), None) is not None


def _required(schema: dict[str, Any]) -> set[str]:
    """Return the paths of keys without which what they stand in is refused; the loader knows where state goes."""
    found = set(schema["required"]) - {"state_directory"}

    def visit(part: dict[str, Any], path: str) -> None:
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
        for option in part.get("anyOf", []):
            visit(option, path)
        if isinstance(part.get("items"), dict):
            visit(part["items"], f"{path}[]")
        if isinstance(part.get("additionalProperties"), dict):
            visit(part["additionalProperties"], f"{path}.*")
        found.update(f"{path}.{key}" for key in part.get("required", []))
        for key, value in part.get("properties", {}).items():
            visit(value, f"{path}.{key}")

    for key, value in schema["properties"].items():
        visit(value, key)
    return found


def _type(schema: dict[str, Any], value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return _type(schema, next(one for one in value["anyOf"] if one.get("type") != "null"))
    if "$ref" in value:
        inner: dict[str, Any] = schema["$defs"][value["$ref"].rpartition("/")[2]]
        return _type(schema, inner)
    if "enum" in value or "const" in value:
        return " or ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    kind: str = value["type"]
    if kind == "array":
        return f"list of {_type(schema, value['items'])}"
    if kind == "object":
        free = isinstance(value.get("additionalProperties"), dict)
        return f"names, each with {_type(schema, value['additionalProperties'])}" if free else "keys"
    return _FORMATS.get(value.get("format", "")) or _TYPES[kind]


def _default(value: dict[str, Any], stated: str) -> str:
    default = value.get("default")
    if default in (None, [], {}):
        return stated.replace("null, ", "")
    if isinstance(default, dict):
        return ""
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _unit(path: str) -> str:
    name = path.rpartition(".")[2]
    if name.endswith("_per_s"):
        return "per second"
    return "seconds" if name.endswith("_s") else "bytes" if name.endswith("_bytes") else ""


def _join(default: re.Match[str]) -> str:
    """Keep what stands before and behind a default apart."""
    return ". " if default[0].startswith(", ") else " "


def _sentence(text: str) -> str:
    """Begin a comment as a sentence, and end it as one."""
    text = text.replace("<", "&lt;").replace("*.", "\\*.").replace(" * ", " \\* ")
    if not text:
        return ""
    word = text.split()[0]
    first = text[0].upper() if word.strip(",;").isalpha() and word not in {"true", "false"} else text[0]
    return first + text[1:] + ("" if text.endswith((".", ":")) else ".")
