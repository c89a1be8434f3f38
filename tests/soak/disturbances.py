"""What is done to a proxy while it works: new configurations, short-lived access tokens, a token endpoint that fails. Does I/O."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Final

from proxy.sandbox.faults import TokenEndpointFault, TokenFault
from tests.end_to_end.programs import write_configuration

if TYPE_CHECKING:
    import random

    from tests.soak.journal import Journal, Weather
    from tests.soak.stage import Stage

TOKEN_LIFETIME_S: Final = 10
_RELOAD_EVERY_S: Final = 3.0
_OUTAGE_EVERY_S: Final = 25.0
# Longer than the rest of a token's life, so that there is none in the end.
_OUTAGE_S: Final = 12.0
# What the proxy may wait before it asks a token endpoint again that has failed for so long.
_RECOVERY_S: Final = 30.0
_FAULTS: Final = (
    TokenFault.SERVER_ERROR_JSON,
    TokenFault.SERVER_ERROR_EMPTY,
    TokenFault.MALFORMED_JSON,
    TokenFault.NO_ACCESS_TOKEN,
    TokenFault.CUT,
    TokenFault.DEAD,
)


async def disturb(
    stage: Stage, journal: Journal, weather: Weather, chance: random.Random, *, reloads: bool = True
) -> None:
    """Disturbs until cancelled."""
    stage.sandbox.faults.token_lifetime_s = TOKEN_LIFETIME_S
    async with asyncio.TaskGroup() as group:
        if reloads:
            group.create_task(_reload(stage, journal))
        group.create_task(_fail_tokens(stage, journal, weather, chance))


async def _reload(stage: Stage, journal: Journal) -> None:
    """Puts other configurations in place: each time other timeouts, so that all that is built from them is built anew."""
    settings, number = dict(stage.settings), 0
    while True:
        await asyncio.sleep(_RELOAD_EVERY_S)
        number += 1
        routes = settings["routes"]
        assert isinstance(routes, list)
        routes[0]["set_headers"] = {"Generation": str(number)}
        await asyncio.to_thread(write_configuration, settings, stage.proxy.config_file.parent)
        stage.proxy.signal(signal.SIGHUP)
        journal.happenings["reloads"] += 1


async def _fail_tokens(stage: Stage, journal: Journal, weather: Weather, chance: random.Random) -> None:
    """Lets the token endpoint give wrong answers for a while, or none."""
    while True:
        await asyncio.sleep(_OUTAGE_EVERY_S)
        kind = chance.choice((None, *_FAULTS))
        journal.happenings[f"token endpoint: {kind or 'closed'}"] += 1
        weather.no_tokens_until = time.monotonic() + _OUTAGE_S + _RECOVERY_S
        try:
            if kind is None:
                await stage.sandbox.close_identity_platform()
            else:
                stage.sandbox.faults.token_endpoint = TokenEndpointFault(kind)
            await asyncio.sleep(_OUTAGE_S)
        finally:
            stage.sandbox.faults.token_endpoint = None
            if kind is None:
                await stage.sandbox.open_identity_platform()
