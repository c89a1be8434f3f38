"""The tops of tasks: what a fault of the proxy's own does there. Does no I/O but to log.

A task that dies of an exception tells nobody: whoever waits for it waits for ever, and what it kept up is kept up no longer. So
each task that somebody waits for runs in `guard`, and each that goes on for the life of the process in `keep_going`.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

logger = logging.getLogger("proxy.tasks")

# Enough to find the place; a fault in a deep recursion would fill the log.
_FRAMES: Final = 12
# Between two attempts of what has to go on: a fault that stays must not take the processor, nor fill the log.
_PAUSE_S: Final = 1.0


async def guard(
    run: Callable[[], Coroutine[object, object, None]], fail: Callable[[ProxyError], object], what: str
) -> None:
    """Run work that somebody waits for; whatever goes wrong with it, they hear.

    Args:
        run: begins the work.
        fail: told why it failed: a `ProxyError` as it is, any other exception as a mistake of the proxy's own.
        what: the work, for the log.
    """
    try:
        await run()
    except ProxyError as error:
        fail(error)
    except Exception as error:  # noqa: BLE001  # the top of a task
        log_fault(what, error)
        fail(ProxyError("The proxy made a mistake with this request. Please report it, with the line of its log."))


async def keep_going(run: Callable[[], Coroutine[object, object, None]], what: str, pause_s: float = _PAUSE_S) -> None:
    """Run work that has to go on until it returns or is cancelled; begin it again after a fault.

    Args:
        run: begins the work.
        what: the work, for the log.
        pause_s: how long to wait before it is begun again.
    """
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001  # the top of a task
            log_fault(what, error)
            await asyncio.sleep(pause_s)
        else:
            return


def log_fault(what: str, error: BaseException) -> None:
    """Log a fault of the proxy's own in one line."""
    logger.error(
        "%s failed: %s. This is a fault of the proxy's own; please report this line.", what, describe_fault(error)
    )


def describe_fault(error: BaseException) -> str:
    """Return an exception's type and the way to where it was raised; never its text, which could hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    way = " > ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {way}" if way else type(error).__name__
