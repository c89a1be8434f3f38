"""Walks a document as it is written, before anything is known to be right. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.faults import KeyPath
    from proxy.config.parsed import Value

Section: TypeAlias = "dict[str, Value]"


def sections(root: Section, key: str) -> Iterator[tuple[KeyPath, Section]]:
    """Yield the mappings in a list, or in a mapping, of mappings, each with its path."""
    collection = root.get(key)
    if isinstance(collection, list):
        yield from (((key, index), item) for index, item in enumerate(collection) if isinstance(item, dict))
    elif isinstance(collection, dict):
        yield from (((key, name), item) for name, item in collection.items() if isinstance(item, dict))
