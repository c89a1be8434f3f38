"""Finds the explanation of a code, a status or a pasted line. Does no I/O."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

from proxy.explanations.codes import CODES
from proxy.explanations.statuses import STATUSES
from proxy.explanations.symptoms import SYMPTOMS

if TYPE_CHECKING:
    from proxy.explanations.entry import Entry
    from proxy.explanations.symptoms import Symptom

_STATUS_AT_END: Final = re.compile(r"_[1-5]\d\d\Z", re.ASCII)
_WORD: Final = re.compile(r"\w+", re.ASCII)


def find_entry(code: str) -> Entry | None:
    """Return the entry of a code or a status, in whatever case it was typed; None where there is none."""
    for form in (code, code.lower(), code.upper()):
        found = CODES.get(form) or STATUSES.get(form) or CODES.get(_STATUS_AT_END.sub("_NNN", form))
        if found is not None:
            return found._replace(code=form)
    return None


def find_entries(text: str) -> list[Entry]:
    """Return the entries of the codes that a pasted line holds, such as a Proxy-Status field or a line of the log.

    Only words with an underscore count: nobody writes those in passing, while `rate` or 200 stand in many lines.
    """
    words = dict.fromkeys(word for word in _WORD.findall(text) if "_" in word)
    return [found for found in map(find_entry, words) if found is not None]


def find_symptoms(text: str) -> list[Symptom]:
    """Return what is known about the message of a program that uses the proxy."""
    lowered = text.lower()
    return [symptom for symptom in SYMPTOMS if symptom.printed.lower() in lowered]


def similar_codes(text: str) -> list[str]:
    """Return the codes that look like `text`, the most alike first."""
    by_lower = {code.lower(): code for code in CODES}
    return [by_lower[found] for found in difflib.get_close_matches(text.lower(), by_lower, n=3, cutoff=0.7)]


def advise(status: int, outcome: str, code: str) -> Entry | None:
    """Return the entry that says most about an exchange: its code's, its outcome's, or that of a refusal's status."""
    if code and (found := find_entry(code)) is not None:
        return found
    if outcome in ("http_request_error", "http_request_denied"):
        return STATUSES.get(str(status)) or CODES[outcome]
    return CODES.get(outcome)
