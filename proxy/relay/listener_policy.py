"""What a listener asks of those who connect. Pure: does no I/O."""

from __future__ import annotations

import ssl  # noqa: TC003  # mypyc evaluates the annotations of dataclasses
from dataclasses import dataclass
from typing import Final

DISMISSED: Final = (
    "The listener of this connection asks for something else since the configuration changed. Connect again."
)


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """What a listener asks of those who connect.

    Attributes:
        context: ends the clients' TLS; None: they speak plain HTTP.
        users: numeric Unix users who may connect; empty: whoever can.
        client_cas: the certificates of `client_ca`, as they stand in the file; empty: clients need none.
    """

    context: ssl.SSLContext | None = None
    users: frozenset[int] = frozenset()
    client_cas: frozenset[bytes] = frozenset()

    def still_takes(self, earlier: ListenerPolicy | None, user: int | None) -> bool:
        """Whether who has come in already has shown all that this policy asks.

        A certificate counts as long as every CA is still there that it could have been verified by.

        Args:
            earlier: by which they came in; None: nothing was asked.
            user: their numeric Unix user; None for TCP.
        """
        earlier = earlier or ListenerPolicy()
        if (self.context is None) != (earlier.context is None):
            return False
        if bool(self.client_cas) != bool(earlier.client_cas) or not earlier.client_cas <= self.client_cas:
            return False
        return not self.users or user in self.users
