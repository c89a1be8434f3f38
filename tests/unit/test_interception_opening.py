"""When to look again at what signs: once for each change of its files that has settled, and once an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.interception.opening import AuthorityWatch

if TYPE_CHECKING:
    from pathlib import Path


def test_a_change_counts_once_and_only_when_it_has_settled(tmp_path: Path) -> None:
    """A key and a certificate are replaced one after the other; half of the pair is nobody's CA."""
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    certificate.write_text("old")
    watch = AuthorityWatch([certificate, key], 0.0)
    assert not watch.is_due(1.0)
    certificate.write_text("newer")
    assert not watch.is_due(2.0)
    key.write_text("new")
    assert not watch.is_due(3.0)
    assert watch.is_due(4.0)
    assert not watch.is_due(5.0)
    key.unlink()
    assert [watch.is_due(at) for at in (6.0, 7.0, 8.0)] == [False, True, False]


def test_what_is_due_without_a_change_is_looked_at_hourly(tmp_path: Path) -> None:
    watch = AuthorityWatch([tmp_path / "certificate"], 0.0)
    assert [watch.is_due(at) for at in (3_599.0, 3_600.0, 3_601.0, 7_199.0, 7_200.0)] == [
        False,
        True,
        False,
        False,
        True,
    ]
