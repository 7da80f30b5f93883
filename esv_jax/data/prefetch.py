"""Loading ahead in background threads, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from esv_jax.checks import expect_int

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetch(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    *,
    workers: int = 2,
    ahead: int = 4,
) -> Iterator[Loaded]:
    """`load(item)` for each item, in order, computed in background threads.

        for frames in prefetch(paths, decode_frames):
            ...

    Decoding leaves Python's lock, so threads run side by side. Work begins with the first result
    asked for. An error of `load`, or of `items`, is raised where its result would have come,
    and ends the iteration; to go on past a bad file, let `load` return something that says so.
    Leaving the loop early, an error or Ctrl-C included, starts nothing new, waits for the loads
    that are running, and ends the threads.

    Args:
      items: what to load; taken one at a time, by the thread that iterates.
      load: called from several threads at once.
      workers: threads, >= 1.
      ahead: results that may be loaded or loading beside the one at hand, >= 1.
    Returns:
      An iterator over results.
    Raises:
      TypeError, ValueError: numbers that are no integers >= 1.
    Cost: memory for ahead + 1 results.
    """
    workers = expect_int("workers", workers, minimum=1)
    ahead = expect_int("ahead", ahead, minimum=1)
    return _prefetch(iter(items), load, workers, ahead)


def _prefetch(
    items: Iterator[Item], load: Callable[[Item], Loaded], workers: int, ahead: int
) -> Iterator[Loaded]:
    pool = ThreadPoolExecutor(min(workers, ahead), thread_name_prefix="prefetch")
    try:
        waiting: deque[Future[Loaded]] = deque()
        more = True
        while True:
            while more and len(waiting) < ahead:
                more = _submit_next(pool, items, load, waiting)
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submit_next(
    pool: ThreadPoolExecutor,
    items: Iterator[Item],
    load: Callable[[Item], Loaded],
    waiting: deque[Future[Loaded]],
) -> bool:
    """Start loading the next item, or queue the error of fetching it; False where none is left."""
    try:
        item = next(items)
    except StopIteration:
        return False
    except Exception as error:
        failed: Future[Loaded] = Future()
        failed.set_exception(error)
        waiting.append(failed)
        return False
    waiting.append(pool.submit(load, item))
    return True
