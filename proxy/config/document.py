"""YAML text as plain values, each with the line it is written on. Does no I/O.

Only what a configuration needs is taken: one document, mappings with text keys that differ, lists and scalars; anchors,
aliases and merge keys. No tag makes an object, and neither nesting nor aliases make the tree large without limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from proxy.config.faults import Fault, format_key_path
from proxy.config.parsed import Document, DocumentError

if TYPE_CHECKING:
    from proxy.config.faults import KeyPath
    from proxy.config.parsed import Value

# The deepest setting is five levels down.
_DEPTH_LIMIT = 32
# Ten thousand routes; a few lines of nested aliases would stand for billions of nodes.
_NODE_LIMIT = 100_000

_TAG = "tag:yaml.org,2002:"
_MERGE_TAG = f"{_TAG}merge"
# Dates and the value key "=" are text to us: no setting is either.
_TEXT_TAGS = {f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value"}
_TYPED_TAGS = {f"{_TAG}int", f"{_TAG}float", f"{_TAG}bool", f"{_TAG}null"}

# What PyYAML says, in part, and what we say. The first that matches counts.
_SYNTAX_FAULTS = (
    (r"'\t'", "YAML does not allow a tab here; indent with spaces"),
    ("cannot start any token", "a value cannot begin with this character; put the value in quotes"),
    (
        "mapping values are not allowed",
        "a second ': ' in one line, or a line that is indented too far; put text with ': ' in quotes",
    ),
    ("could not find expected ':'", "a key without ':' after it, or a line that belongs to the one before"),
    ("while scanning a quoted scalar", "a quote is opened here and never closed"),
    ("escape", "an unknown escape in double quotes; write paths with '\\' in single quotes"),
    ("expected <block end>", "the indentation fits no line above, or a '-' is missing or too much"),
    ("flow", "a '[' or '{' that is never closed, or a ',' missing after an item"),
    ("undefined alias", "an alias ('*name') that no anchor ('&name') defines above it"),
    ("duplicate anchor", "an anchor ('&name') defined twice; give one another name"),
    ("single document", "a second document begins here ('---'); keep one in the file"),
)
_OTHER_SYNTAX_FAULT = "this is not YAML; look for a quote, a colon or a space that is missing here or in the line above"


def parse_document(text: str) -> Document:
    """Return the one mapping that the text holds.

    Raises:
        DocumentError: if it is not YAML, not a mapping, or over a limit.
    """
    node = _compose(text)
    if node is None:
        raise DocumentError(1, "the file is empty; config.example.yaml shows what belongs in it")
    if not isinstance(node, yaml.MappingNode):
        raise DocumentError(
            _line(node), "the file has to hold a mapping with 'listeners:', 'credentials:' and 'routes:'"
        )
    reader = _Reader()
    root = reader.mapping(node, ())
    return Document(root, reader.lines, reader.faults, reader.spoiled)


class _Loader(yaml.SafeLoader):
    """Composes nodes to a bounded depth: PyYAML recurses, and would end in a RecursionError."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise DocumentError(_line(parent) if parent else 1, "nested too deeply; no setting is this far down")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(line, "a control character that YAML does not allow; remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = f"{error.context} {error.problem}"
        message = next((ours for theirs, ours in _SYNTAX_FAULTS if theirs in said), _OTHER_SYNTAX_FAULT)
        # The end of the file tells nobody where the quote was opened.
        if error.context_mark is not None and "end of stream" in said:
            mark = error.context_mark
        raise DocumentError(mark.line + 1 if mark else 1, message) from None
    except (ValueError, OverflowError):
        # PyYAML hands the number of "\UFFFFFFFF" to chr() as it is.
        raise DocumentError(1, "an escape in double quotes that is no Unicode character; use single quotes") from None


class _Reader:
    """Turns nodes into values and keeps what it finds on the way."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[Fault] = []
        self.spoiled: set[KeyPath] = set()
        self._constructor = yaml.constructor.SafeConstructor()
        self._nodes_read = 0

    def value(self, node: yaml.Node, path: KeyPath, line: int) -> Value:
        self._count(node)
        self.lines[path] = line
        # An alias may lead to a node that holds it, or down a chain of others.
        if len(path) > _DEPTH_LIMIT:
            raise DocumentError(_line(node), "nested too deeply, or an alias that contains itself")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, {f"{_TAG}seq"}, path)
            return [self.value(item, (*path, index), _line(item)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Value]:
        self._check_tag(node, {f"{_TAG}map"}, path)
        entries = self._entries(node, path, depth=0)
        return {key: self.value(entry, (*path, key), line) for key, (entry, line) in entries.items()}

    def _entries(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, tuple[yaml.Node, int]]:
        if depth > _DEPTH_LIMIT:
            raise DocumentError(_line(node), "a merge key ('<<') that leads back to itself")
        merged: dict[str, tuple[yaml.Node, int]] = {}
        own: dict[str, tuple[yaml.Node, int]] = {}
        for key_node, value_node in node.value:
            self._count(key_node)
            if key_node.tag == _MERGE_TAG:
                for source in self._merge_sources(value_node, path):
                    merged = self._entries(source, path, depth + 1) | merged
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in own:
                message = f"this key is already in line {own[key][1]}; keep one of the two"
                self.faults.append(Fault(format_key_path((*path, key)), _line(key_node), message))
                continue
            own[key] = (value_node, _line(key_node))
        return merged | own

    def _merge_sources(self, node: yaml.Node, path: KeyPath) -> list[yaml.MappingNode]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        mappings = [source for source in sources if isinstance(source, yaml.MappingNode)]
        if len(mappings) < len(sources):
            message = "a merge key ('<<') takes an alias of a mapping, or a list of such aliases"
            self.faults.append(Fault(format_key_path(path), _line(node), message))
        return mappings

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT_TAGS and node.value.isprintable():
            return str(node.value)
        message = "a key that YAML does not read as plain text; put it in quotes, or look for a stray '?', '[' or '{'"
        self.faults.append(Fault(format_key_path(path), _line(node), message))
        return None

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Value:
        self._check_tag(node, _TEXT_TAGS | _TYPED_TAGS, path)
        if node.tag in _TYPED_TAGS:
            try:
                typed: object = self._constructor.construct_object(node)
            except (ValueError, OverflowError, LookupError):
                self._fault(
                    node, path, "YAML cannot read this as the number or truth value it looks like; put it in quotes"
                )
                return None
            return typed if isinstance(typed, int | float | bool) else None
        text = str(node.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._fault(
                node, path, "half of a surrogate pair, which is no Unicode character; write the character itself"
            )
        return text

    def _check_tag(self, node: yaml.Node, known: set[str], path: KeyPath) -> None:
        if node.tag not in known:
            self._fault(node, path, "a YAML tag ('!…') that means nothing here; remove it")

    def _fault(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.spoiled.add(path)
        self.faults.append(Fault(format_key_path(path), _line(node), message))

    def _count(self, node: yaml.Node) -> None:
        self._nodes_read += 1
        if self._nodes_read > _NODE_LIMIT:
            raise DocumentError(_line(node), "too large, or aliases that multiply; no configuration has 100,000 values")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
