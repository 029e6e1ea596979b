"""One call's coroutine, driven by what it waits for: no task, no future and no turn of the loop lies between the bytes
that arrive and the code that waits for them. That machinery costs as much as parsing a request does.

A coroutine parks with `await PARK`, having looked that what it waits for is not there; whoever changes something that it
could wait for wakes it, and it looks again. It may also await futures and tasks. What needs to know its task, as
`asyncio.timeout` does, runs in one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final


class _Park:
    __slots__ = ()

    def __await__(self) -> Generator[_Park, None, None]:
        yield self


PARK: Final = _Park()

_ENDED: Final[Any] = object()
_next: Final = next  # Among the builtins it would be looked for each time.


class Strand:
    """Runs one coroutine to its end."""

    __slots__ = ("_ended", "_loop", "_parked", "_steps")

    def __init__(
        self,
        coroutine: Coroutine[Any, None, None],
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        """`ended` is called once, with what the coroutine raised, if it did."""
        self._steps = coroutine.__await__()
        self._loop = loop
        self._ended = ended
        self._parked = True

    def wake(self) -> None:
        """Let the coroutine look again, if it is parked. It runs before this returns."""
        if self._parked:
            self._go_on()

    def _go_on(self, _: object = None) -> None:
        self._parked = False
        try:
            # With something to say at the end: to be told it by an exception costs as much as reading a head does.
            awaited = _next(self._steps, _ENDED)
        except BaseException as error:  # noqa: BLE001  Whoever started the coroutine decides.
            self._ended(error)
        else:
            if awaited is PARK:
                self._parked = True
            elif awaited is _ENDED:
                self._ended(None)
            elif awaited is None:
                self._loop.call_soon(self._go_on)
            else:
                # What a task does with a future that it is given (asyncio/tasks.py).
                awaited._asyncio_future_blocking = False  # noqa: SLF001
                awaited.add_done_callback(self._go_on)
