"""Whatever the file holds, loading it gives settings or faults in our own words."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.config.settings import CredentialSettings, ListenerSettings, RouteSettings, Settings

_ENVIRON = {"HOME": "/home/u", "A": "1"}
# Phrases of PyYAML and msgspec that would show that their text went through.
_FOREIGN = (
    "msgspec",
    "Expected `",
    "Object contains",
    "Invalid value",
    "while scanning",
    "while parsing",
    "expected <",
    "Traceback",
)

_TEXTS = st.sampled_from(
    [
        "127.0.0.1:1",
        "0.0.0.0:1",
        "reverse",
        "https://a.example",
        "a.example",
        "*.a.example",
        "orders",
        "~",
        "${A}",
        "${",
        "",
        "a\0",
    ]
) | st.text(max_size=8)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS
_KEYS = st.sampled_from(
    sorted(
        {
            *Settings.__struct_fields__,
            *ListenerSettings.__struct_fields__,
            *CredentialSettings.__struct_fields__,
            *RouteSettings.__struct_fields__,
        }
    )
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | _TEXTS, inner, max_size=4),
    max_leaves=12,
)


def _load(content: bytes) -> str:
    """Return what is said of a file with this content, nothing if it can be used."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.yaml"
        file.write_bytes(content)
        try:
            load_settings(file, _ENVIRON)
        except ConfigurationFaults as refusal:
            faults = refusal.faults
        else:
            return ""
    assert faults
    assert all(fault.line >= 1 and fault.message for fault in faults)
    return "\n".join(fault.message for fault in faults)


def _own_words(said: str, given: object) -> None:
    """Hold that no phrase of a library is in what is said, but for those that the file itself has.

    Hypothesis also draws the string literals of this module, so it does name a file "expected <".
    """
    assert not [phrase for phrase in _FOREIGN if phrase in said and phrase not in str(given)]


@given(st.dictionaries(st.sampled_from(sorted(Settings.__struct_fields__)), _VALUES, max_size=6))
@example({"listeners": [{"address": "127.0.0.1:1", "mode": "reverse", "upstream": 5}], "routes": {"a": {"hosts": "x"}}})
@example(
    {
        "listeners": {"a": {"address": "127.0.0.1:1"}},
        "credentials": [{"tenant_id": "a.b"}],
        "routes": [{"credential": "0"}],
    }
)
@example({"credentials": {"a": {"token_endpoint": "https://a"}}, "routes": [{"credential": "a", "hosts": [["x"]]}]})
def test_any_structure_is_settings_or_faults(root: dict[str, object]) -> None:
    _own_words(_load(yaml.safe_dump(root, allow_unicode=True).encode("utf-8", "surrogatepass")), root)


@given(st.text("abr:-?[]{}&*!|>%@`'\"\\ \t\n#,0.=<~", max_size=40) | st.text(max_size=20))
@example("? [a]\n: b")
@example("!!int ''")
@example("a: !!int ''")
@example("a: !!bool maybe")
@example("a: !!float x")
@example("a: !!binary x")
@example("a: !!timestamp x")
@example("a: 1:99:99:99:99")
@example("<<: [{a: 1}, *x]")
@example("=: =")
@example("%YAML 9.9\n---\na: 1")
@example("a: &a {<<: [*a, *a]}")
def test_any_text_is_settings_or_faults(text: str) -> None:
    _own_words(_load(text.encode("utf-8", "surrogatepass")), text)


@given(st.binary(max_size=40))
def test_any_bytes_are_settings_or_faults(content: bytes) -> None:
    _own_words(_load(content), content)


@pytest.mark.parametrize("field", ["certificate", "ca_file", "private_key"])
@given(name=st.text(max_size=20))
@example(name="expected <")
def test_any_file_name_is_settings_or_faults(field: str, name: str) -> None:
    """G7: a file name is repeated in the message, whatever it spells."""
    credential = {"tenant_id": "a.example", "client_id": "c", "certificate": "c.pem", field: name}
    root = {
        "listeners": [{"address": "127.0.0.1:1"}],
        "credentials": {"c": credential},
        "routes": [{"hosts": ["a.example"], "credential": "c", "scope": "a/.default"}],
    }
    _own_words(_load(yaml.safe_dump(root, allow_unicode=True).encode("utf-8", "surrogatepass")), name)
