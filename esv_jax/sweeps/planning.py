"""Which videos are explained together: buckets of lengths, and shards of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from esv_jax.estimators import Estimator
from esv_jax.explanations import block_size
from esv_jax.games import Cost
from esv_jax.games.protocol import Game
from esv_jax.games.scoring import GameInfo, request_cost

_MAX_WASTE = 0.08  # of the elements of padded sequences
_MAX_BUCKETS = 16
_SHARD_VIDEOS = 1024
_SHARD_BYTES = 64e6  # of values
_SHARD_FLOPS = 4e12  # half a minute or so on two cores of a CPU


class Shard(NamedTuple):
    """Videos that are explained by one program and written to one file.

    Attributes:
      positions: of the videos in the data. start: row of the first in the results.
      n: elements that sequences are padded to; sequences of an estimator that does not pad have
        as many.
      estimator: None where these videos cannot be explained.
      reason: why not, or "".
      cost: of one video; None where there is no estimator.
    """

    positions: np.ndarray
    start: int
    n: int
    estimator: Estimator | None
    reason: str
    cost: Cost | None


def bucket_ends(
    lengths: Sequence[int], max_waste: float = _MAX_WASTE, most: int = _MAX_BUCKETS
) -> list[int]:
    """Lengths to pad to, fewest that waste at most `max_waste`, chosen from the data.

    For each number of buckets the ends that pad the fewest elements are found by dynamic
    programming over the distinct lengths; the first number that is good enough is taken.

    Args:
      lengths: of all sequences, each >= 1.
      max_waste: padding's share of all elements, in [0, 1).
      most: buckets; with so many the share may be larger.
    Returns:
      Ends in ascending order, the last one the longest length.
    Cost: most * L**2 for L distinct lengths.
    """
    size, count = np.unique(np.asarray(lengths), return_counts=True)
    n_sizes = len(size)
    real = int((size * count).sum())
    videos = np.concatenate([[0], np.cumsum(count)])
    # padded[i, j]: elements, padding included, of lengths i..j - 1 in one bucket.
    padded = np.where(
        np.arange(n_sizes)[:, None] < np.arange(1, n_sizes + 1)[None, :],
        size[None, :] * (videos[None, 1:] - videos[:-1, None]),
        np.inf,
    )
    best = np.concatenate([[0.0], np.full(n_sizes, np.inf)])  # of the first j lengths
    cuts: list[np.ndarray] = []
    for _ in range(min(most, n_sizes)):
        total = best[:-1, None] + padded  # the last bucket starts at i and ends before j
        cuts.append(total.argmin(0))
        best = np.concatenate([[np.inf], total.min(0)])
        if best[-1] <= real / (1 - max_waste):
            break
    ends, j = [], n_sizes
    for cut in reversed(cuts):
        ends.append(int(size[j - 1]))
        j = int(cut[j - 1])
    return ends[::-1]


def make_shards(
    lengths: np.ndarray,
    choose: Callable[[int], Estimator],
    game: Game,
    shape_of: Callable[[int], Any],
    *,
    n_classes: int,
    n_values: int,
    shard_size: int | None = None,
) -> list[Shard]:
    """All videos in shards, the same for the same data and settings.

    Args:
      lengths: elements of every video; 0 where that is not known.
      choose: the estimator for sequences of n elements; may raise ValueError.
      shape_of: shape and dtype of a sequence of n elements.
      n_classes: C. n_values: numbers stored per element, all classes and marginals counted.
      shard_size: videos in a shard; default by the size of values and by cost.
    """
    chosen: dict[int, tuple[Estimator | None, str]] = {}
    for n in np.unique(lengths).tolist():
        try:
            chosen[n] = (choose(n), "") if n else (None, "")
        except ValueError as error:
            chosen[n] = (None, str(error))

    padded = dict(zip(chosen, chosen, strict=True))
    for estimator in {each for each, _ in chosen.values() if each is not None and each.pads}:
        own = [n for n, (each, _) in chosen.items() if each == estimator]
        ends = bucket_ends(lengths[np.isin(lengths, own)].tolist())
        padded |= {n: next(end for end in ends if end >= n) for n in own}

    groups: dict[tuple[int, Estimator | None, str], list[int]] = {}
    for position, n in enumerate(lengths.tolist()):
        groups.setdefault((max(padded[n], 1), *chosen[n]), []).append(position)
    shards: list[Shard] = []
    start = 0
    for (n, each, reason), positions in sorted(groups.items(), key=lambda item: _order(*item[0])):
        cost = None
        if each is not None:
            cost = request_cost(game, shape_of(n), each.request(GameInfo.of(game, n)))
        size = shard_size
        if size is None:
            size = _SHARD_VIDEOS
            if cost is not None and each is not None:
                size = min(size, int(_SHARD_BYTES // (4 * n * n_values + 4 * n_classes)))
                size = min(size, int(_SHARD_FLOPS // (cost.flops or 1)))
                block = block_size(each, game, shape_of(n))
                size = max(size // block * block, block)
        for first in range(0, len(positions), size):
            part = np.array(positions[first : first + size])
            shards.append(Shard(part, start, n, each, reason, cost))
            start += len(part)
    return shards


def _order(n: int, estimator: Estimator | None, reason: str) -> tuple[Any, ...]:
    return (n, repr(estimator), reason)


def share_of_host(
    shards: Sequence[Shard], todo: Sequence[int], host: int, n_hosts: int
) -> list[int]:
    """Which of the shards `todo` one of several hosts does, so that all have about as much.

    The most expensive first, each to the host that has least: the same answer on every host. A
    host does its own in the order of the data.
    """

    def work(index: int) -> float:
        cost = shards[index].cost
        return len(shards[index].positions) * float((cost and cost.flops) or 1)

    load = [0.0] * n_hosts
    mine = []
    for index in sorted(todo, key=lambda index: (-work(index), index)):
        least = min(range(n_hosts), key=lambda k: (load[k], k))
        load[least] += work(index)
        if least == host:
            mine.append(index)
    return sorted(mine)
