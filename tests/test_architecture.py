"""The plan of the house, held: which room may import which, no cycles, names that say what is inside.

The rules are functions over source text, so that each can be shown to object to a bad example.
"""

from __future__ import annotations

import ast
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT: Final = Path(__file__).parent.parent / "proxy"

# Each room, and the rooms it may import: docs/design.md, "Rooms". A room that is not listed here has no place yet.
# The room "" is `proxy` itself, which holds the version and nothing else.
BELOW_RELAY: Final = frozenset(
    {"identity", "dialing", "keys", "policy", "config", "explanations", "tasks", "errors", ""}
)
BELOW_SERVER: Final = BELOW_RELAY | {"relay", "interception", "operations", "event_loop", "hardening"}
MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(),
    "event_loop": frozenset(),
    "hardening": frozenset(),
    "errors": frozenset({""}),
    "explanations": frozenset(),
    "tasks": frozenset({"errors", ""}),
    "policy": frozenset({"errors", ""}),
    "keys": frozenset({"errors"}),
    "config": frozenset({"keys", "policy", "errors", ""}),
    "dialing": frozenset({"keys", "policy", "config", "errors", ""}),
    "identity": frozenset({"dialing", "keys", "policy", "config", "tasks", "errors", ""}),
    "interception": BELOW_RELAY,
    "relay": BELOW_RELAY,
    "http_server": BELOW_RELAY,
    "operations": BELOW_RELAY | {"http_server"},
    "token_service": BELOW_RELAY | {"http_server"},
    "relay_server": BELOW_SERVER,
    "relays": BELOW_SERVER | {"relay_server"},
    "workers": BELOW_SERVER | {"relay_server", "relays"},
    "server": BELOW_SERVER | {"relay_server", "relays", "token_service", "workers"},
    "doctor": BELOW_RELAY | {"interception"},
    "client_setup": frozenset({"config", "errors", ""}),
    "cli": BELOW_SERVER | {"server", "workers", "token_service", "doctor", "client_setup", "sandbox"},
    "sandbox": frozenset(),
    "__main__": frozenset({"cli"}),
}
# What the proxy answers itself is read as strictly as what it relays, by the same parser. operations watches the relay through what
# the relay leaves for it, and through nothing else. The token service takes from it how listeners are opened, who their clients are
# and what answers look like; nothing that relays.
ALSO: Final[Mapping[str, frozenset[str]]] = {
    "http_server": frozenset({"proxy.relay.asked", "proxy.relay.head", "proxy.relay.message", "proxy.relay.secure"}),
    "operations": frozenset({"proxy.relay.record", "proxy.relay.counters"}),
    "token_service": frozenset(
        f"proxy.relay.{name}"
        for name in (
            *(
                "record",
                "listening",
                "listener_policy",
                "known_client",
                "accepted_connection",
                "admission",
                "answers",
                "secure",
            ),
        )
    ),
}
# The modules of the relay by floors, the highest first: each imports from lower floors only, for types too. Drawn in
# docs/design.md. A name stands for a module, or for a package below the relay whose modules have no floor of their own.
FLOORS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("a connection that the kernel redirected, until it is known what it is for", ("redirected",)),
    ("a connection before its first request: the first byte, TLS", ("arrival",)),
    ("the client's side, HTTP/1.1", ("client",)),
    ("where HTTP/2 begins, imported when somebody speaks it", ("versions",)),
    ("the client's side, HTTP/2", ("http2.client",)),
    ("who, where, may it", ("gate", "original_tunnel")),
    ("one request and its response; CONNECT", ("exchange", "tunnel")),
    ("how a request names its destination; judged again after a reload", ("destination_rule", "reauthorisation")),
    ("what the running configuration makes of requests", ("state",)),
    ("where a request may go", ("destinations",)),
    ("which version an upstream is spoken to in", ("negotiation",)),
    ("the connections to one upstream, HTTP/2", ("http2.pool",)),
    ("the upstream's side, HTTP/2", ("http2.upstream",)),
    ("the connections to one upstream, HTTP/1.1", ("pool",)),
    ("the upstream's side, HTTP/1.1", ("upstream",)),
    ("heads from bytes and back; frames; pipes joined", ("admission", "head", "http2", "sender", "splice")),
    (
        "the seam, and what all share",
        (
            *("accepted_connection", "asked", "chunked", "diagnosis", "field_lines", "listening", "passwords"),
            *("recording", "replay", "shared", "sides"),
        ),
    ),
    (
        "values, and what knows nothing of the relay",
        (
            *("answers", "client_hello", "counters", "handshakes", "known_client", "lanes", "listener_policy"),
            *("message", "original", "plain_form", "presence", "record", "reset", "secure", "tokens"),
        ),
    ),
)
EMPTY_NAMES: Final = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "misc"})


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target, a module of the package.

    Attributes:
        importer: the module it stands in.
        target: the module it names.
        line: where it stands.
        is_for_types: it stands under ``if TYPE_CHECKING:``, so it does not happen at run time.
    """

    importer: str
    target: str
    line: int
    is_for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.target}"


def room(module: str) -> str:
    """``proxy.relay.head`` is in ``relay``; ``proxy`` itself is the room ""."""
    return module.split(".")[1] if "." in module else ""


def find_imports(sources: Mapping[str, str]) -> list[Import]:
    """Every import of one of ``sources`` by another, wherever in a file it stands."""
    return [found for importer, source in sources.items() for found in _imports_of(importer, source, set(sources))]


def _imports_of(importer: str, source: str, modules: set[str]) -> Iterator[Import]:
    tree = ast.parse(source)
    for_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _targets(node, modules):
                if name.split(".")[0] == "proxy" and name != importer:
                    yield Import(importer, name, node.lineno, id(node) in for_types)


def _targets(node: ast.Import | ast.ImportFrom, modules: set[str]) -> Iterable[str]:
    """The modules a statement names: ``from proxy import relay`` means a module, ``from proxy import __version__`` none."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    below = {f"{base}.{alias.name}" for alias in node.names}
    return sorted({name if name in modules else base for name in below})


def wrong_directions(imports: Iterable[Import]) -> list[str]:
    """The imports that point up or sideways, or from or to a room that has no place in the plan."""
    return [
        str(found)
        for found in imports
        if room(found.importer) != room(found.target)
        and room(found.target) not in MAY_IMPORT.get(room(found.importer), frozenset())
        and found.target not in ALSO.get(room(found.importer), frozenset())
    ]


def floor(module: str) -> int | None:
    """Return the floor of a module of the relay, counted from the ground; None where it has none."""
    name = module.removeprefix("proxy.relay.")
    for place in (name, name.partition(".")[0]):
        for height, (_, names) in enumerate(reversed(FLOORS)):
            if place in names:
                return height
    return None


def upward_in_relay(imports: Iterable[Import]) -> list[str]:
    """The imports inside the relay that do not point to a lower floor; inside a package of one floor they may."""
    wrong = []
    for found in imports:
        if (room(found.importer), room(found.target)) != ("relay", "relay"):
            continue
        here, there = floor(found.importer), floor(found.target)
        is_package = "." in found.importer.removeprefix("proxy.relay.")
        if here is None or there is None or there > here or (there == here and not is_package):
            wrong.append(str(found))
    return wrong


def draw_floors() -> str:
    """The picture in docs/design.md."""
    lines: list[str] = []
    for what, names in FLOORS:
        lines += textwrap.wrap(" · ".join(names), 46)[:1]
        rest = textwrap.wrap(" · ".join(names), 46)[1:]
        lines[-1] = f"  {lines[-1]:<48}{what}"
        lines += [f"  {line}" for line in rest]
        lines.append("    │")
    return "\n".join(lines[:-1])


def find_cycle(imports: Iterable[Import]) -> list[str]:
    """Modules that import each other in a ring, empty where there is none.

    What stands under TYPE_CHECKING counts from room to room, and inside the relay; inside another room it ties no knot that Python
    would meet.
    """
    graph: dict[str, set[str]] = {}
    for found in imports:
        is_inside = room(found.importer) == room(found.target) != "relay"
        if not (found.is_for_types and is_inside):
            graph.setdefault(found.importer, set()).add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring: list[str] = error.args[1]
        return ring
    return []


def is_bad_name(module: str) -> bool:
    """Whether the last part of a module's name is one of the standard library's, or says nothing."""
    name = module.rpartition(".")[2]
    return name in EMPTY_NAMES or (name in sys.stdlib_module_names and not name.startswith("__"))


def has_docstring(source: str) -> bool:
    return bool(ast.get_docstring(ast.parse(source)))


def read_sources(root: Path) -> dict[str, str]:
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text(encoding="utf-8")
    return sources


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    found = read_sources(ROOT)
    assert {"proxy", "proxy.errors", "proxy.relay", "proxy.relay.head"} <= set(found)
    return found


# The house


def test_imports_point_one_way(sources: dict[str, str]) -> None:
    assert wrong_directions(find_imports(sources)) == []


def test_each_module_of_the_relay_imports_from_lower_floors_only(sources: dict[str, str]) -> None:
    modules = {module for module in sources if module.startswith("proxy.relay.")}
    assert {f"proxy.relay.{name}" for _, names in FLOORS for name in names} <= modules
    assert [module for module in modules if floor(module) is None] == []
    assert upward_in_relay(find_imports(sources)) == []


def test_the_picture_of_the_relay_is_drawn_from_its_floors() -> None:
    assert draw_floors() in (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")


def test_no_modules_import_each_other(sources: dict[str, str]) -> None:
    assert find_cycle(find_imports(sources)) == []


def test_every_module_has_a_name_of_its_own(sources: dict[str, str]) -> None:
    assert [module for module in sources if is_bad_name(module)] == []


def test_every_module_says_what_it_is_for(sources: dict[str, str]) -> None:
    assert [module for module, source in sources.items() if not has_docstring(source)] == []


# The rules themselves object to what they should


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        pytest.param("proxy.errors", "import proxy.config.settings", id="errors imports config"),
        pytest.param("proxy.policy.routing", "from proxy.config.settings import Settings", id="policy imports config"),
        pytest.param("proxy.config.checks", "from proxy.identity import source", id="config imports identity"),
        pytest.param(
            "proxy.identity.source", "from proxy.relay.message import RequestHead", id="identity imports relay"
        ),
        pytest.param("proxy.relay.head", "from proxy.operations import metrics", id="relay imports operations"),
        pytest.param("proxy.interception.leaf", "import proxy.operations", id="interception imports operations"),
        pytest.param("proxy.interception.leaf", "import proxy.relay.head", id="interception imports relay"),
        pytest.param("proxy.operations.metrics", "import proxy.relay.pool", id="operations imports more of relay"),
        pytest.param("proxy.operations.metrics", "from proxy import relay", id="operations imports relay as a whole"),
        pytest.param("proxy.relay.head", "import proxy.interception", id="relay imports interception"),
        pytest.param("proxy.relay.head", "import proxy.server", id="relay imports server"),
        pytest.param("proxy.token_service.service", "from proxy.relay.state import Relay", id="token service relays"),
        pytest.param("proxy.relay.head", "import proxy.token_service", id="relay imports token service"),
        pytest.param("proxy.server", "from proxy.cli import main", id="server imports cli"),
        pytest.param("proxy.server", "import proxy.sandbox", id="server imports sandbox"),
        pytest.param("proxy.server", "import proxy.doctor", id="server imports doctor"),
        pytest.param("proxy.workers", "import proxy.server", id="workers imports server"),
        pytest.param("proxy.sandbox.gateway", "from proxy.errors import ProxyError", id="sandbox imports errors"),
        pytest.param("proxy.sandbox.gateway", "from proxy import __version__", id="sandbox imports the version"),
        pytest.param("proxy.errors", "def late():\n    import proxy.server", id="inside a function"),
        pytest.param("proxy.errors", "if TYPE_CHECKING:\n    from proxy.relay import head", id="for types"),
        pytest.param(
            "proxy.errors", "if a:\n    try:\n        import proxy.cli\n    except b:\n        pass", id="deep"
        ),
        pytest.param("proxy.attic", "import proxy.errors", id="a room without a place"),
        pytest.param("proxy.errors", "import proxy.attic", id="into a room without a place"),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(importer: str, statement: str) -> None:
    modules = dict.fromkeys([f"proxy.{name}" for name in MAY_IMPORT if name] + ["proxy", "proxy.relay.head"], "")
    assert len(wrong_directions(find_imports({**modules, importer: statement}))) == 1


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        pytest.param("proxy.operations.metrics", "from proxy.relay.counters import Counters", id="counters"),
        pytest.param("proxy.operations.metrics", "from proxy.relay import record", id="record"),
        pytest.param("proxy.cli.demo", "from proxy.sandbox.server import Sandbox", id="cli imports sandbox"),
        pytest.param("proxy.relay.head", "from proxy.relay.chunked import Decoder", id="in one room"),
        pytest.param("proxy.identity.source", "from proxy import __version__", id="the version"),
        pytest.param("proxy.errors", "import proxying, asyncio", id="others"),
    ],
)
def test_an_import_in_the_right_direction_passes(importer: str, statement: str) -> None:
    modules = dict.fromkeys(["proxy", "proxy.relay", "proxy.relay.counters", "proxy.relay.record"], "")
    assert wrong_directions(find_imports({**modules, importer: statement})) == []


@pytest.mark.parametrize(
    ("importer", "statement", "is_upward"),
    [
        pytest.param("message", "from proxy.relay.head import parse_request_head", True, id="up"),
        pytest.param("message", "if TYPE_CHECKING:\n    from proxy.relay import exchange", True, id="up for types"),
        pytest.param("exchange", "from proxy.relay.tunnel import dial", True, id="sideways"),
        pytest.param("attic", "from proxy.relay.message import Head", True, id="without a floor"),
        pytest.param("http2.frames", "from proxy.relay.http2.fields import x", False, id="in a package of one floor"),
        pytest.param("head", "from proxy.relay.message import Head", False, id="down"),
        pytest.param("head", "from proxy.errors import MalformedRequest", False, id="another room"),
    ],
)
def test_an_upward_import_in_the_relay_is_found(importer: str, statement: str, *, is_upward: bool) -> None:
    names = ("exchange", "client", "head", "tunnel", "message", "http2.fields")
    modules = dict.fromkeys([f"proxy.relay.{name}" for name in names], "")
    found = find_imports({**modules, f"proxy.relay.{importer}": statement})
    assert bool(upward_in_relay(found)) is is_upward


def test_a_ring_is_found_through_functions_and_across_rooms() -> None:
    ring = {
        "proxy.relay.a": "from proxy.relay import b",
        "proxy.relay.b": "def late():\n    import proxy.relay.c",
        "proxy.relay.c": "import proxy.relay.a",
    }
    assert set(find_cycle(find_imports(ring))) == set(ring)
    rooms = {
        "proxy.relay.a": "import proxy.interception.b",
        "proxy.interception.b": "if TYPE_CHECKING:\n    import proxy.relay.a",
    }
    assert set(find_cycle(find_imports(rooms))) == set(rooms)


@pytest.mark.parametrize(("name", "is_ring"), [("config", False), ("relay", True)])
def test_types_alone_make_a_ring_inside_the_relay_only(name: str, *, is_ring: bool) -> None:
    sources = {
        f"proxy.{name}.a": f"import proxy.{name}.b",
        f"proxy.{name}.b": f"if typing.TYPE_CHECKING:\n    import proxy.{name}.a\nelse:\n    import json",
    }
    assert bool(find_cycle(find_imports(sources))) is is_ring


@pytest.mark.parametrize("module", ["proxy.identity.token", "proxy.relay.ssl", "proxy.utils", "proxy.config.common"])
def test_a_name_that_misleads_or_says_nothing_is_found(module: str) -> None:
    assert is_bad_name(module)


@pytest.mark.parametrize("module", ["proxy", "proxy.__main__", "proxy.identity.access_token", "proxy.relay.head"])
def test_a_name_that_says_something_passes(module: str) -> None:
    assert not is_bad_name(module)


@pytest.mark.parametrize("source", ["", "import json", "# a comment is not enough", '"""  """'])
def test_a_module_without_a_docstring_is_found(source: str) -> None:
    assert not has_docstring(source)


def test_what_msgspec_reads_is_not_compiled() -> None:
    """mypyc leaves `type` of an annotation such as `float | None`, and messages between processes could not be read any more."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    compiled = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    messages = ast.parse((ROOT / "workers" / "messages.py").read_text())
    imported = {
        f"{node.module.replace('.', '/')}.py"
        for node in ast.walk(messages)
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("proxy.")
    }
    assert imported, "the messages carry something of ours"
    assert not imported & set(compiled["include"])


def test_the_core_of_http_2_knows_nothing_of_the_relay(sources: dict[str, str]) -> None:
    """It reads bytes and says what they mean; only `translation` knows a head of HTTP/1.1."""
    shells = {f"proxy.relay.http2.{name}" for name in ("client", "pool", "refusals", "upstream")}
    core = {module for module in sources if module.startswith("proxy.relay.http2.")} - shells
    assert shells <= set(sources)
    assert core
    below = core | {"proxy.relay.message", "proxy.relay.chunked"}
    imports = [found for found in find_imports(sources) if found.importer in core]
    assert [str(found) for found in imports if found.target not in below] == []
    assert {found.importer for found in imports if found.target not in core} == {"proxy.relay.http2.translation"}
