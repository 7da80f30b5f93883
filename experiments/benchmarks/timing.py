"""How long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def seconds(call: Callable[[], Any]) -> float:
    """Wall seconds of one call, which has to wait for its own results."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
