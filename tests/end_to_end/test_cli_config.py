"""`config schema`: the schema knows every key of the example, and no other."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.end_to_end.programs import COMMAND, ROOT, run_program


def schema() -> dict[str, Any]:
    done = run_program([COMMAND, "config", "schema"])
    assert (done.status, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def objects(root: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the object schemas that a value may follow."""
    if "$ref" in part:
        return objects(root, root["$defs"][part["$ref"].rpartition("/")[2]])
    found = [each for option in part.get("anyOf", []) for each in objects(root, option)]
    return [*found, part] if part.get("type") == "object" else found


def unknown_keys(root: dict[str, Any], part: dict[str, Any], value: object, path: str) -> list[str]:
    """Returns the keys of a document that its schema does not have."""
    if isinstance(value, list):
        items = part.get("items", {})
        return [found for item in value for found in unknown_keys(root, items, item, path)]
    if not isinstance(value, dict):
        return []
    known = objects(root, part)
    problems = []
    for key, inner in value.items():
        parts = [each["properties"][key] for each in known if key in each.get("properties", {})]
        parts += [each["additionalProperties"] for each in known if isinstance(each.get("additionalProperties"), dict)]
        problems += unknown_keys(root, parts[0], inner, f"{path}.{key}") if parts else [f"{path}.{key}"]
    return problems


def test_the_schema_has_every_key_of_the_example() -> None:
    root = schema()
    example = yaml.safe_load((ROOT / "config.example.yaml").read_text())
    assert unknown_keys(root, root, example, "") == []
    assert unknown_keys(root, root, {"listners": []}, "") == [".listners"]
    assert unknown_keys(root, root, {"routes": [{"host": "a"}]}, "") == [".routes.host"]


def test_unknown_keys_are_errors_for_the_schema_too() -> None:
    root = schema()
    sections = [root, *root["$defs"].values()]
    assert [
        part["title"] for part in sections if part.get("properties") and part.get("additionalProperties") is not False
    ] == []


def test_what_has_to_be_there_is_what_the_loader_wants() -> None:
    root = schema()
    assert set(root["required"]) == {"listeners", "credentials", "routes"}
    assert root["$schema"].startswith("https://json-schema.org/")
    assert root["title"] == "apim-auth-proxy"
