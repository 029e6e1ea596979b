"""When to do what is done again and again: at whole multiples of its interval, by the loop's clock.

A process that does several such things is then woken once for those that come together. Where nothing else happens, being
woken is most of what they cost.
"""

from __future__ import annotations

import asyncio


def until_tick_s(interval_s: float) -> float:
    """How long until the next multiple; one that is very near is left out, since a timer that fired a little early would
    else fire again at once."""
    left_s = interval_s - asyncio.get_running_loop().time() % interval_s
    return left_s if left_s > interval_s / 8 else left_s + interval_s
