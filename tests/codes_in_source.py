"""Collects from the source, by its syntax trees, the codes that the product can put into an answer, an access line or a metric.

A code is any text that reaches a parameter or field named ``code`` or ``outcome``, and the ``event`` of a line of the access log.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT: Final = Path(__file__).parent.parent / "proxy"
NAMES: Final = ("code", "outcome")
# The sandbox's codes are the services' own; the doctor and the command line only pass codes on.
LEFT_OUT: Final = ("sandbox", "explanations", "doctor", "cli")
# What is not written where it is passed on, and where it is from.
PASSED_ON: Final = {
    "error.code": "an error made elsewhere",
    "last.code": "likewise",
    "message.code": "likewise, from another process",
    "note.code": "likewise, kept for the record in proxy/token_service/handout.py",
    "note.outcome": "likewise",
    "record.code": "likewise, in an access line",
    "distrust.code": "found by the same way in proxy/dialing/distrust.py",
    "source.failure_code": "likewise, of a token",
    "failing.code": "likewise",
    "first.code": "likewise",
    "first.failure_code": "likewise",
    "error.proxy_status": "the error tree, which has a test of its own",
    "members.get('error')": "OAuth errors, which the token endpoint sends",
    "_outcome(error)": "a label of one metric",
    "failure.code": "the table of proxy/dialing/handshake.py",
    "name_cause(error)": "the table in proxy/relay/handshakes.py",
    "note": "notes on a token response",
}
_EVENT: Final = re.compile(r'"event":"(\w+)"')
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9*]+)*\*?")


@dataclass
class Found:
    """What was collected.

    Attributes:
        codes: each with the places that write it; ``*`` stands for what is put in when it runs.
        unclear: expressions of which the tree does not say what they give.
    """

    codes: dict[str, list[str]] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)


def collect_codes(sources: Iterable[tuple[str, str]]) -> Found:
    """Reads (name, text) of modules."""
    trees = [(name, ast.parse(text)) for name, text in sources]
    everywhere: dict[str, set[int]] = {}
    for _, tree in trees:
        everywhere |= {name: places for name, places in signatures(tree).items() if not name.startswith("_")}
    found = Found()
    # A method that a class has from its base is written there.
    for _, tree in trees:
        for each in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for base in map(ast.unparse, each.bases):
                inherited = [name for name in everywhere if name.startswith(f"{base}.")]
                everywhere |= {each.name + name.removeprefix(base): everywhere[name] for name in inherited}
    for name, tree in trees:
        known = everywhere | signatures(tree)
        for owner, scope in scopes(tree):
            for node in own_nodes(scope):
                if isinstance(node, ast.Call):
                    for expression in arguments(node, known, owner):
                        add(found, name, expression, scope, tree)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    for event in _EVENT.findall(node.value):
                        found.codes.setdefault(event, []).append(f"{name}:{node.lineno}")
    return found


def product_sources() -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0] not in LEFT_OUT
    ]


def signatures(tree: ast.Module) -> dict[str, set[int]]:
    """Functions, classes and, as ``Class.method``, methods, with the positions of their arguments that are codes."""
    found: dict[str, set[int]] = {}
    for owner, scope in scopes(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            every = (*scope.args.posonlyargs, *scope.args.args)
            note_places(
                found,
                f"{owner}.{scope.name}" if owner else scope.name,
                [(one.arg, one.annotation) for one in every if one.arg not in ("self", "cls")],
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
            note_places(found, node.name, [(getattr(line.target, "id", ""), line.annotation) for line in fields])
    return found


def note_places(found: dict[str, set[int]], called: str, names: list[tuple[str, ast.expr | None]]) -> None:
    places = {
        index
        for index, (name, kind) in enumerate(names)
        if name in NAMES and kind is not None and ast.unparse(kind) == "str"
    }
    if places:
        found[called] = places


def scopes(node: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.AST]]:
    """The module and each of its functions, with the class it is a method of."""
    if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
        yield owner, node
    for child in ast.iter_child_nodes(node):
        yield from scopes(child, child.name if isinstance(child, ast.ClassDef) else owner)


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function and in none inside of it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from own_nodes(child)


def arguments(call: ast.Call, known: dict[str, set[int]], owner: str) -> Iterator[ast.expr]:
    yield from (keyword.value for keyword in call.keywords if keyword.arg in NAMES)
    name = ast.unparse(call.func)
    if name.startswith("self."):
        name = f"{owner}.{name.removeprefix('self.')}"
    for index in known.get(name, known.get(name.rpartition(".")[2], ())):
        if index < len(call.args) and not any(isinstance(one, ast.Starred) for one in call.args[: index + 1]):
            yield call.args[index]


def add(found: Found, module: str, expression: ast.expr, scope: ast.AST, tree: ast.Module) -> None:
    place = f"{module}:{expression.lineno}"
    for value in values(expression, scope, tree):
        if isinstance(value, str):
            if value and not _CODE.fullmatch(value):
                found.unclear.append(f"{place}: {value!r} is no code")
            elif value:
                found.codes.setdefault(value, []).append(place)
        elif not isinstance(value, ast.Constant) and ast.unparse(value) not in PASSED_ON:
            found.unclear.append(f"{place}: {ast.unparse(value)}")


def values(expression: ast.expr, scope: ast.AST, tree: ast.Module) -> Iterator[str | ast.expr]:
    """What an expression can give: texts, and expressions that are not to be looked into."""
    match expression:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)
        case ast.IfExp(body=body, orelse=other):
            yield from values(body, scope, tree)
            yield from values(other, scope, tree)
        case ast.BoolOp(values=parts):
            for part in parts:
                yield from values(part, scope, tree)
        case ast.Name(id=name):
            yield from named(name, expression, scope, tree)
        case _:
            yield expression


def named(name: str, expression: ast.expr, scope: ast.AST, tree: ast.Module) -> Iterator[str | ast.expr]:
    """What a name can stand for: a parameter, which callers fill; what was assigned to it; what a loop takes from a table."""
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
        every = (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs)
        if name in NAMES and name in {argument.arg for argument in every}:
            return
    assigned = [
        node.value
        for where in (own_nodes(scope), tree.body)
        for node in where
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and name
        in {getattr(target, "id", "") for target in (node.targets if isinstance(node, ast.Assign) else [node.target])}
    ]
    looped = [text for node in own_nodes(scope) if isinstance(node, ast.For) for text in from_table(name, node, tree)]
    if not assigned and not looped:
        yield expression
    yield from looped
    for value in assigned:
        yield from values(value, scope, tree)


def from_table(name: str, loop: ast.For, tree: ast.Module) -> Iterator[str | ast.expr]:
    """What a loop over a table of the module gives one of its names."""
    if not isinstance(loop.target, ast.Tuple) or not isinstance(loop.iter, ast.Name):
        return
    names = [getattr(element, "id", "") for element in loop.target.elts]
    if name not in names:
        return
    for node in tree.body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if getattr(target, "id", "") == loop.iter.id and isinstance(getattr(node, "value", None), ast.Tuple):
            for row in node.value.elts:  # type: ignore[attr-defined]  # just looked at
                element = row.elts[names.index(name)]
                is_text = isinstance(element, ast.Constant) and isinstance(element.value, str)
                yield element.value if is_text else element
