"""`config schema`: the schema knows every key of the example, and no other."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import yaml

from proxy.config.descriptions import properties, read_descriptions, read_example
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


def test_every_key_has_the_description_of_the_example() -> None:
    """F15"""
    root = schema()
    described = {path: owner[key].get("description", "") for path, owner, key in properties(root)}
    assert len(described) >= 108
    bare = {path for path, text in described.items() if re.fullmatch(r"(?:default: (?:[\w.:]+|\[.*\]))?", text)}
    assert bare == set()
    written = read_descriptions(read_example())
    assert {path: written.get(path) for path in described} == described
    assert described["timeouts.token_s"].startswith("How long one request waits for an access token")
    assert described["admin.token_file"].endswith("/livez, /readyz and /startupz only. Default: none")


def test_the_example_is_in_the_wheel_and_in_what_the_image_is_built_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"config.example.yaml": "proxy/config/example.yaml"}
    assert "!config.example.yaml" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def test_a_comment_belongs_to_its_key() -> None:
    text = """\
# About a.
# And more.
a: 1 # at its end
                                # continued
b: "# no comment"
list:
  - c: [x#y] # of c

    # above d
    d: 2
credentials:
  mine:
    e: 1 # of e
"""
    assert read_descriptions(text) == {
        "a": "About a. And more. at its end continued",
        "list[].c": "of c",
        "list[].d": "above d",
        "credentials.*.e": "of e",
    }


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
