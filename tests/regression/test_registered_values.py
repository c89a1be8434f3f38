"""Ids, scopes and resources as people copy them from a portal: refused with the form that is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
listeners: [{{address: '127.0.0.1:0'}}]
credentials: {{c: {{tenant_id: contoso.com, client_id: "{client_id}", client_secret: s}}}}
routes: [{{hosts: [a.example], credential: c, {target}}}]
state_directory: state
"""
ID = "22222222-2222-2222-2222-222222222222"
SCOPE = "scope: api://orders/.default"


@pytest.mark.parametrize(
    ("client_id", "target", "key", "message"),
    [
        (f"{{{ID}}}", SCOPE, "credentials.c.client_id", "without braces"),
        (f"{ID} ", SCOPE, "credentials.c.client_id", "begins or ends with a blank"),
        (ID.replace("-", " - ", 1), SCOPE, "credentials.c.client_id", "GUIDs, without blanks"),
        (ID, "resource: api://orders/.default", "routes[0].resource", "/.default belongs to a scope"),
        (ID, "scope: https://api://orders/.default", "routes[0].scope", "this URI has two schemes"),
        (ID, "resource: https://api://orders", "routes[0].resource", "this URI has two schemes"),
    ],
)
def test_what_was_copied_wrong_is_refused_with_the_right_form(
    client_id: str, target: str, key: str, message: str, tmp_path: Path
) -> None:
    """D9."""
    file = tmp_path / "config.yaml"
    file.write_text(TEXT.format(client_id=client_id, target=target))

    with pytest.raises(ConfigurationFaults) as caught:
        load_settings(file, {})

    assert [fault.path for fault in caught.value.faults] == [key]
    assert message in caught.value.faults[0].message


@pytest.mark.parametrize(
    "target", [SCOPE, "resource: https://legacy.contoso.com", "scope: https://contoso.com//.default"]
)
def test_what_is_right_is_taken(target: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(TEXT.format(client_id=ID, target=target))

    load_settings(file, {})
