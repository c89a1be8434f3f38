"""How this program asks whether what listens at an address is a listener of its own. Pure.

The question is no request of HTTP, so no listener passes it on, whatever its mode. One of ours answers in its own name, and neither
counts nor logs it; any other server refuses it.
"""

from __future__ import annotations

from typing import Final

QUESTION: Final = b"apim-auth-proxy?\r\n\r\n"
CODE: Final = "probe"
"""Of the error that answers it."""
