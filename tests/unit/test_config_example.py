"""The example configuration is the reference: it loads, it has every key, and it states the true defaults."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from msgspec.structs import fields

from proxy.config.document import parse_document
from proxy.config.loading import load_settings
from proxy.config.settings import Section, Settings

if TYPE_CHECKING:
    from proxy.config.parsed import Value

_EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
_ENVIRON = {"HOME": "/home/u"}


def _sections() -> dict[str, type[Section]]:
    """Return the model of each section, and of the whole under the empty name."""
    models: dict[str, type[Section]] = {"": Settings}
    for setting in fields(Settings):
        for kind in {setting.type, *(one for part in get_args(setting.type) for one in (part, *get_args(part)))}:
            if isinstance(kind, type) and issubclass(kind, Section):
                models[setting.name] = kind
    return models


_MODELS = list(_sections().items())


def _written(section: str) -> list[dict[str, Value]]:
    """Return the mappings the example has for a section: one, or one for each item."""
    root = parse_document(_EXAMPLE.read_text(encoding="utf-8")).root
    value = root[section] if section else root
    if section == "credentials":
        assert isinstance(value, dict)
        value = list(value.values())
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]


def test_the_sections_are_found() -> None:
    assert {"", "listeners", "credentials", "routes", "admin", "limits", "timeouts", "access_log"} <= set(_sections())


def test_the_example_loads_as_it_stands() -> None:
    settings = load_settings(_EXAMPLE, _ENVIRON, check_files=False)
    assert [route.credential for route in settings.routes] == ["orders-client", "other-server", "two-certificates"]


@pytest.mark.parametrize(("section", "model"), _MODELS)
def test_the_example_has_every_key_there_is_and_no_other(section: str, model: type[Section]) -> None:
    assert {key for mapping in _written(section) for key in mapping} == set(model.__struct_fields__)


@pytest.mark.parametrize(("section", "model"), _MODELS)
def test_the_example_states_every_plain_default(section: str, model: type[Section]) -> None:
    written = _written(section)
    for setting in fields(model):
        name = setting.name
        default = setting.default.value if isinstance(setting.default, Enum) else setting.default
        default = list(default) if isinstance(default, tuple) and default else default
        if isinstance(default, str | int | float | list):
            assert default in [mapping[name] for mapping in written if name in mapping], name


@pytest.mark.parametrize(
    "section",
    # The default is to have none of these, and the example shows some.
    [
        setting.name
        for setting in fields(Settings)
        if not setting.required and setting.name not in ("clients", "token_cache", "token_files")
    ],
)
def test_sections_of_the_example_are_the_defaults(section: str) -> None:
    settings = load_settings(_EXAMPLE, _ENVIRON, check_files=False)
    (setting,) = (setting for setting in fields(Settings) if setting.name == section)
    assert getattr(settings, section) == setting.default


@pytest.mark.parametrize("environ", [_ENVIRON, {**_ENVIRON, "XDG_STATE_HOME": "/var/state"}])
def test_the_state_directory_of_the_example_is_the_default(tmp_path: Path, environ: dict[str, str]) -> None:
    lines = _EXAMPLE.read_text(encoding="utf-8").splitlines(keepends=True)
    shorter = tmp_path / "config.yaml"
    shorter.write_text("".join(line for line in lines if not line.startswith("state_directory:")), encoding="utf-8")
    expected = load_settings(shorter, environ, check_files=False).state_directory
    assert load_settings(_EXAMPLE, environ, check_files=False).state_directory == expected
