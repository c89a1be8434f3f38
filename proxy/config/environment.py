"""``${NAME}`` and ``${NAME:-default}`` in text, replaced from an environment that is an argument. Does no I/O.

What the environment holds is not looked at again: a value with ``${`` in it stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REFERENCE = re.compile(
    r"""
    (?P<escape> \$\$\{ )                                            # stands for a literal ${
    | \$\{ (?P<name> [A-Za-z_][A-Za-z0-9_]* ) (?: :- (?P<default> [^}]* ) )? \}
    | (?P<broken> \$\{ )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Substitution:
    """A text after substitution.

    Attributes:
        text: with every reference replaced; meaningless where there are problems.
        replaced: whether anything in it comes from a reference.
        problems: what stood in the way, each a sentence with what to do.
    """

    text: str
    replaced: bool
    problems: tuple[str, ...]


def substitute(text: str, environ: Mapping[str, str]) -> Substitution:
    """Return the text with its references replaced; as in a shell, ``:-`` counts for an empty variable too.

    ``$${`` stands for a literal ``${``. A ``$`` that no ``{`` follows is itself.
    """
    problems: list[str] = []
    replaced = False

    def replacement(match: re.Match[str]) -> str:
        nonlocal replaced
        if match["escape"]:
            return "${"
        if match["broken"]:
            problems.append(
                "'${' without a name and '}'; write ${NAME} or ${NAME:-default}, and $${ for a literal '${'"
            )
            return ""
        replaced = True
        value = environ.get(match["name"])
        if match["default"] is not None:
            return value or match["default"]
        if value is None:
            problems.append(
                f"the environment variable {match['name']} is not set; set it, or write ${{{match['name']}:-default}}"
            )
            return ""
        return value

    return Substitution(_REFERENCE.sub(replacement, text), replaced, tuple(problems))


def _not_set(name: str) -> str:
    return f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
