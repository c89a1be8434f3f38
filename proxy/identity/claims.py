"""What a token request asks for in its ``claims`` parameter. Does no I/O.

Source: OpenID Connect Core §5.5; Entra ID's claims challenges and client capabilities.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def merge_capabilities(claims: str | None, capabilities: Sequence[str]) -> str | None:
    """Return what to send as ``claims``: a challenge's demands together with what this client can do.

    Args:
        claims: a JSON object as text, or None.
        capabilities: such as ``cp1``, which says that the client can answer claims challenges.

    Returns:
        JSON text, or None where there is nothing to say.
    """
    if not capabilities:
        return claims
    merged: dict[str, object] = dict(json.loads(claims)) if claims is not None else {}
    demanded = merged.get("access_token")
    # Both live under access_token, so the merge has to reach that deep.
    merged["access_token"] = {
        **(demanded if isinstance(demanded, dict) else {}),
        "xms_cc": {"values": [capability.upper() for capability in capabilities]},
    }
    return json.dumps(merged, separators=(",", ":"))
