"""From plain values to `Settings`, or to all that is wrong with single values, in sentences. Does no I/O.

msgspec describes the types of the settings and holds their values. It stops at the first thing that is wrong; people want to read
all of them, so the values are read here.
"""

from __future__ import annotations

import difflib
import functools
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from msgspec import inspect, structs

from proxy.config.faults import suggest
from proxy.config.settings import Section, Settings
from proxy.config.values import JUDGE, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from proxy.config.faults import Finding, KeyPath
    from proxy.config.parsed import Value
    from proxy.config.values import Surroundings

_REQUIRED: Final = {
    "listeners": "the addresses to listen on, such as '- address: 127.0.0.1:8080'",
    "credentials": "how the proxy signs in to the identity platform, each under a name of your choice",
    "routes": "which hosts get a token, and for what",
    "state_directory": "neither XDG_STATE_HOME nor HOME is set in the environment, so there is no default",
    "address": "where to listen, such as 127.0.0.1:8080",
    "certificate": "the PEM or PFX file of the certificate that is registered for the application",
    "hosts": "the hosts that this route is for, such as [contoso.azure-api.net]",
    "credential": "the name of an entry in credentials",
    "scope": "what tokens are for, such as api://orders/.default",
}
_NEVER_KEYS: Final = {
    "password": "passwords do not belong in this file; put it into a separate file, and name that in password_file",
}
_MAPPING: Final = "a mapping of 'key: value' lines"
_EXPECTED: Final[dict[object, str]] = {
    str: "text",
    Secret: "text",
    Path: "a path",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list, such as [a, b] or one item per line after '- '",
    dict: _MAPPING,
}
_TRUTH: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_BOUNDS: Final[tuple[tuple[str, Callable[[float, float], bool], str], ...]] = (
    ("le", operator.le, "expected a number of at most {:.15g}"),
    ("ge", operator.ge, "expected a number of at least {:g}"),
    ("gt", operator.gt, "expected a number greater than {:g}"),
)

_Container: TypeAlias = "dict[str, Value] | list[Value]"
_AnySection = TypeVar("_AnySection", bound=Section)


def validate(
    root: dict[str, Value], surroundings: Surroundings, substituted: Collection[KeyPath]
) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, or None and what is wrong with single values.

    Text from the environment becomes a number or a truth value where one is meant; `root` is changed to hold it.

    Args:
        root: the document's values, references to the environment replaced.
        surroundings: what paths are relative to.
        substituted: where text came from the environment.
    """
    reader = _Reader(surroundings, substituted)
    settings = reader.read_section(Settings, root, ())
    return (None if reader.findings else settings), reader.findings


def restore(root: Mapping[str, object]) -> Settings:
    """Return the settings that plain values stand for, all of them judged before and every path absolute.

    Raises:
        ValueError: they stand for none.
    """
    reader = _Reader(None, ())
    settings = reader.read_section(Settings, dict(root), ())  # type: ignore[arg-type]  # any values: that is what is found out
    if reader.findings:
        raise ValueError("; ".join(f"{'.'.join(map(str, path))}: {message}" for path, message in reader.findings))
    return settings


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8: the environment, and names of files, may have bytes that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def judge(kind: Any, value: str) -> str:  # noqa: ANN401  # an annotated type is no class
    """Return one of the texts of `proxy.config.values`, as it is after loading.

    Raises:
        ValueError: it is none; with a sentence of ours.
    """
    reader = _Reader(None, ())
    judged: str = reader.read(_form(inspect.type_info(kind)), [value], 0, ())
    for _, message in reader.findings:
        raise ValueError(message)
    return judged


class _Form:
    """What a value has to be.

    Attributes:
        kind: a key of `_EXPECTED`, an enumeration, or a section.
        choices: the texts that are possible, where they are counted.
        is_optional: whether it may be null.
        limits: of the number, or of the length.
        item: of a list or a mapping.
        key: of a mapping.
        judges: what has the last word, in order.
    """

    __slots__ = ("choices", "is_optional", "item", "judges", "key", "kind", "limits")

    def __init__(self) -> None:
        self.kind: Any = str
        self.choices: tuple[str, ...] = ()
        self.is_optional = False
        self.limits: inspect.Type | None = None
        self.item: _Form | None = None
        self.key: _Form | None = None
        self.judges: tuple[Callable[[Any], Any], ...] = ()


_SCALARS: Final[dict[type[inspect.Type], type]] = {
    inspect.StrType: str,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
}


def _form(described: inspect.Type) -> _Form:
    if isinstance(described, inspect.Metadata):
        form = _form(described.type)
        form.judges = (*form.judges, (described.extra or {})[JUDGE])
        return form
    if isinstance(described, inspect.UnionType):
        (one,) = (kind for kind in described.types if not isinstance(kind, inspect.NoneType))
        form = _form(one)
        form.is_optional = True
        return form
    form = _Form()
    form.limits = described
    if isinstance(described, inspect.StructType | inspect.CustomType):
        form.kind = described.cls
    elif isinstance(described, inspect.EnumType):
        form.kind = described.cls
        form.choices = tuple(str(one.value) for one in described.cls)
    elif isinstance(described, inspect.LiteralType):
        form.choices = tuple(str(one) for one in described.values)
    elif isinstance(described, inspect.VarTupleType):
        form.kind, form.item = list, _form(described.item_type)
    elif isinstance(described, inspect.DictType):
        form.kind, form.key, form.item = dict, _form(described.key_type), _form(described.value_type)
    else:
        form.kind = _SCALARS[type(described)]
    return form


@functools.cache
def _fields(section: type[Section]) -> dict[str, tuple[_Form, bool]]:
    """Return what each key of a section has to be, and whether it is required."""
    return {field.name: (_form(inspect.type_info(field.type)), field.required) for field in structs.fields(section)}


class _Reader:
    """Reads values, and goes on behind what is wrong.

    Attributes:
        findings: what is wrong. What was read is of use only without any.
    """

    def __init__(self, surroundings: Surroundings | None, substituted: Collection[KeyPath]) -> None:
        self.findings: list[Finding] = []
        self._surroundings = surroundings
        self._substituted = substituted

    def read_section(self, kind: type[_AnySection], values: dict[str, Value], path: KeyPath) -> _AnySection:
        """Return a section; without what could not be read."""
        fields = _fields(kind)
        read: dict[str, Any] = {}
        for name, (form, is_required) in fields.items():
            if name in values:
                read[name] = self.read(form, values, name, (*path, name))
            elif is_required:
                self._find((*path, name), f"this key is required: {_REQUIRED.get(name, 'add it')}")
        for name in values:
            if name not in fields:
                self._find((*path, name), _explain_unknown((*path, name)))
        return kind(**read) if not self.findings else None  # type: ignore[return-value]  # it is of no use then

    def read(self, form: _Form, container: _Container, key: str | int, path: KeyPath) -> Any:  # noqa: ANN401  # of any kind
        """Return what stands at a place in a list or mapping, in the form it has in the settings; None where it is wrong."""
        value: Any = container[key]  # type: ignore[index]  # a key of this very container
        if value is None and form.is_optional:
            return None
        if path in self._substituted and isinstance(value, str):
            value = container[key] = _retype(form.kind, value)  # type: ignore[index]  # as above
        found = self._read(form, value, path)
        for judge_ in form.judges if found is not None else ():
            try:
                found = judge_(found)
            except ValueError as error:
                self._find(path, str(error))
                return None
        return found

    def _read(self, form: _Form, value: Any, path: KeyPath) -> Any:  # noqa: ANN401  # of any kind
        kind = form.kind
        if form.choices:
            if isinstance(value, str) and value in form.choices:
                return kind(value)
            return self._find(path, _explain_choices(form.choices, value))
        if isinstance(kind, type) and issubclass(kind, Section):
            if isinstance(value, dict):
                return self.read_section(kind, value, path)
            return self._find(path, f"expected {_MAPPING}{_reading(value)}{_advice(dict, value)}")
        if not _is_of(kind, value):
            return self._find(path, f"expected {_EXPECTED[kind]}{_reading(value)}{_advice(kind, value)}")
        if kind in (list, dict):
            return self._read_items(form, value, path)
        if kind is Path:
            return self._locate(value, path)
        if isinstance(value, str) and not is_unicode(value):
            return self._find(path, "bytes that are not UTF-8, from the environment; only paths may have such")
        wrong = _explain_length(form, value, "a value") if isinstance(value, str) else _explain_bound(form, value)
        return self._find(path, wrong) if wrong else kind(value)

    def _read_items(self, form: _Form, value: Any, path: KeyPath) -> Any:  # noqa: ANN401  # of any kind
        count = len(self.findings)
        read: Any
        if isinstance(value, dict):
            read = {
                self.read(form.key or form, [key], 0, (*path, key)): self.read(
                    form.item or form, value, key, (*path, key)
                )
                for key in value
            }
        else:
            read = tuple([self.read(form.item or form, value, index, (*path, index)) for index in range(len(value))])
        wrong = _explain_length(form, value, "at least one is needed")
        if wrong:
            return self._find(path, wrong)
        return read if len(self.findings) == count else None

    def _locate(self, text: str, path: KeyPath) -> Path | None:
        if self._surroundings is None:
            return Path(text)
        try:
            return self._surroundings.locate(text)
        except ValueError as error:
            self._find(path, str(error))
            return None

    def _find(self, path: KeyPath, message: str) -> None:
        self.findings.append((path, message))


def _is_of(kind: type, value: object) -> bool:
    """Whether a value is of a kind: a truth value is no number, and a whole number is one with a fraction, too."""
    if kind is list:
        return isinstance(value, list | tuple)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind if kind in (bool, dict) else str)


def _retype(kind: type, text: str) -> Value:
    """Return the number or truth value in a text from the environment, where one is meant; otherwise the text."""
    if kind is bool:
        return _TRUTH.get(text.strip().lower(), text)
    if kind in (int, float):
        try:
            number: float = kind(text)
        except ValueError:
            return text
        return number
    return text


def _explain_length(form: _Form, value: Collection[object], needed: str) -> str | None:
    least = getattr(form.limits, "min_length", None)
    most = getattr(form.limits, "max_length", None)
    if least is not None and len(value) < least:
        return f"this is empty; {'write a value' if isinstance(value, str) else needed}"
    if most is not None and len(value) > most:
        return f"these are {len(value)}; at most {most} are possible"
    return None


def _explain_bound(form: _Form, value: float) -> str | None:
    for name, holds, message in _BOUNDS:
        bound = getattr(form.limits, name, None)
        if bound is not None and not holds(value, bound):
            return message.format(bound)
    return None


def _explain_choices(choices: Collection[str], value: object) -> str:
    *others, last = (f"'{choice}'" for choice in choices)
    expected = f"{', '.join(others)} or {last}" if others else last
    if not isinstance(value, str):
        return f"write {expected}{_reading(value)}"
    nearest = difflib.get_close_matches(value, choices, n=1)
    return f"write {expected}" + (f"; did you mean '{nearest[0]}'?" if nearest else "")


def _explain_unknown(path: KeyPath) -> str:
    key = str(path[-1])
    if key in _NEVER_KEYS:
        return _NEVER_KEYS[key]
    section: type[Section] = Settings
    for part in path[:-1]:
        # Indices, and the names of credentials, are no fields and lead nowhere.
        section = _inner_sections(section).get(str(part), section)
    homes = _homes().get(key, ())
    if homes:
        return f"there is no such key here; it belongs {' or '.join(homes)}"
    return f"there is no such key; {suggest(key, _fields(section))}"


@functools.cache
def _homes() -> dict[str, tuple[str, ...]]:
    """Return where each key of the configuration belongs, as words."""
    homes: dict[str, tuple[str, ...]] = {}
    pending: list[tuple[type[Section], str]] = [(Settings, "at the top of the file")]
    while pending:
        section, place = pending.pop(0)
        inner = _inner_sections(section)
        for name in _fields(section):
            homes[name] = (*homes.get(name, ()), place)
            if name in inner:
                above = "" if section is Settings else f"{place.removeprefix('under ').strip('`')}."
                pending.append((inner[name], f"under `{above}{name}`"))
    return homes


def _inner_sections(section: type[Section]) -> dict[str, type[Section]]:
    """Return the sections below a section, or in a list or mapping there, by their keys."""
    found = {}
    for name, (form, _) in _fields(section).items():
        kind = (form.item or form).kind
        if isinstance(kind, type) and issubclass(kind, Section):
            found[name] = kind
    return found


def _reading(value: object) -> str:
    """Return how YAML understood what is written, without the value itself."""
    if value is None:
        return ", but there is no value"
    for kind, words in (
        (bool, "true or false"),
        (int | float, "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "a mapping"),
    ):
        if isinstance(value, kind):
            return f", but this is {words} in YAML"
    return ""


def _advice(kind: type, value: object) -> str:
    if value is None:
        return "; write a value or remove the key"
    if kind in (str, Secret, Path) and isinstance(value, int | float):
        return "; put it in quotes"
    if kind in (int, float, bool) and isinstance(value, str):
        return "; write it without quotes or units"
    return ""
