"""Plan of a sweep: its data and model, divided into shards."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax import data as sources
from esv_jax.batches import block_size
from esv_jax.checks import AnyArray, expect, message
from esv_jax.estimators import Estimator
from esv_jax.games.multi_scale import make_game
from esv_jax.games.protocol import Cost, Game, ScaleGame, SubsetGame
from esv_jax.games.scoring import GameInfo, request_cost
from esv_jax.inputs import checked_prior
from esv_jax.models import TrainedModel, load_model
from esv_jax.models.tensor_files import digest_of
from esv_jax.models.trained import model_digest
from esv_jax.results.shard_files import ShardExtent

_MAX_WASTE = 0.08  # of the elements of padded sequences
_MAX_BUCKETS = 16
_SHARD_VIDEOS = 1024
_SHARD_BYTES = 64e6  # of values
_SHARD_FLOPS = 4e12  # about half a minute on two CPU cores


# Data and model


@dataclasses.dataclass(frozen=True)
class Job:
    """Data and model of a sweep.

    Attributes:
      inputs: the data. rows: positions in it of the videos to explain.
      width: shape of one element.
    """

    inputs: sources.inputs.Inputs
    rows: np.ndarray
    game: Game
    prior: AnyArray
    class_names: tuple[str, ...]
    digest: str
    width: tuple[int, ...]

    @property
    def labels(self) -> np.ndarray | None:
        """True classes of the videos to explain."""
        return None if self.inputs.labels is None else self.inputs.labels[self.rows]

    @property
    def uids(self) -> list[str]:
        """Names of the videos to explain."""
        return [self.inputs.uids[i] for i in self.rows]

    def example(self, n: int) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a sequence of n elements."""
        return jax.ShapeDtypeStruct((n, *self.width), jnp.float32)

    def lengths(self, frames: int | None, least: int) -> np.ndarray:
        """Number of elements to explain of each video; 0 if unknown or below `least`."""

        def one(row: int) -> int:
            try:
                n = self.inputs.length(row)
            except (ValueError, OSError):
                return 0
            return 0 if n < least else min(n, frames or n)

        if self.inputs.videos is None:
            return np.array([one(int(row)) for row in self.rows])
        return np.array(list(sources.inputs.prefetch(self.rows.tolist(), one, workers=4, ahead=16)))


def make_job(
    data: str | PathLike[str] | sources.inputs.Inputs,
    model: str | PathLike[str] | TrainedModel | Game,
    prior: ArrayLike | None,
    class_names: Sequence[str] | None,
    digest: str | None,
    uids: Sequence[str],
    limit: int | None,
    frames: int | None,
) -> Job:
    """Open model and data, and check that they fit together."""
    inputs = data if isinstance(data, sources.inputs.Inputs) else sources.open_inputs(data)
    rows = np.array(inputs.positions(tuple(uids), limit), int)
    expect(len(rows) > 0, "data", "at least one video", "none")
    name, times = Counter(inputs.uids[i] for i in rows).most_common(1)[0]
    expect(times == 1, "uids", "distinct uids", f"{name!r} {times} times")
    if isinstance(model, str | PathLike):
        model = load_model(model)
    if isinstance(model, TrainedModel):
        expect(prior is None, "prior", "None beside a model that has one", "a prior")
        prior, class_names = model.prior, class_names or model.class_names
        digest = digest or model_digest(model)
        model = make_game(model.heads)
    if not isinstance(model, SubsetGame | ScaleGame):
        expected = "a TrainedModel, its file, or a game"
        raise TypeError(message("model", expected, type(model).__name__))
    game: Game = model
    digest = digest or _digest_of_game(game)
    example = _first_readable(inputs, rows, frames)
    try:
        game.begin(example)
        n_outputs = game.output(example).shape[0]
    except ValueError as error:
        raise ValueError(f"data that do not fit the model: {error}") from error
    names = tuple(map(str, range(n_outputs))) if class_names is None else tuple(class_names)
    checked = checked_prior(game, example, prior)
    n = checked.shape[0]
    expect(len(names) == n, "class_names", f"{n} names, as the model has", len(names))
    if inputs.class_names is not None:
        got, way_out = len(inputs.class_names), "They are of other classes."
        expect(got == n, "data", f"{n} classes, as the model has", got, way_out)
    if inputs.labels is not None:
        top = int(np.max(inputs.labels[rows]))
        expect(top < n, "labels", f"classes 0..{n - 1}, as the model has", top)
    return Job(inputs, rows, game, checked, names, digest, example.shape[1:])


def _first_readable(inputs: sources.inputs.Inputs, rows: np.ndarray, frames: int | None) -> Array:
    """Read the first readable video, with which the model is checked."""
    for row in rows.tolist():
        (found,) = inputs.read_many([row], frames)
        if not isinstance(found, Exception) and np.isfinite(found[0]).all():
            return jnp.asarray(found[0])
    raise ValueError(message("data", "a video that can be read", f"none of {len(rows)}: {found}"))


def _digest_of_game(game: Game) -> str:
    """Digest of a game's arrays and settings; games of functions need a name from the caller."""
    leaves, structure = jax.tree.flatten(game)
    if not leaves or not all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
        got = f"{type(game).__name__}, whose weights are not its own"
        raise ValueError(message("digest", "a name for the model's weights", got))
    arrays = {str(k): np.asarray(leaf) for k, leaf in enumerate(leaves)}
    return digest_of(arrays, str(structure))


# Shards


class Shard(NamedTuple):
    """Videos explained by one program and written to one file.

    Attributes:
      positions: of the videos in the data. start: row of the first in the results.
      n: number of elements, with padding; for an estimator without padding that of every sequence.
      estimator: None if these videos cannot be explained.
      reason: why not, or "".
      cost: of one video; None without an estimator.
    """

    positions: np.ndarray
    start: int
    n: int
    estimator: Estimator | None
    reason: str
    cost: Cost | None

    @property
    def rows(self) -> slice:
        """Rows of the results."""
        return slice(self.start, self.start + len(self.positions))

    @property
    def extent(self) -> ShardExtent:
        """Position in the store."""
        sampled = self.estimator is not None and self.estimator.needs_key
        return ShardExtent(self.start, len(self.positions), self.n, sampled)


def bucket_ends(
    lengths: Sequence[int], max_waste: float = _MAX_WASTE, most: int = _MAX_BUCKETS
) -> list[int]:
    """Choose the fewest lengths to pad to that waste at most `max_waste`.

    For each number of buckets, dynamic programming over the distinct lengths finds the ends that
    pad the fewest elements; the first number that is good enough is taken.

    Args:
      lengths: of all sequences, each >= 1.
      max_waste: padding's share of all elements, in [0, 1).
      most: largest number of buckets; with that many the share may be larger.
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
    job: Job,
    lengths: np.ndarray,
    choose: Callable[[int], Estimator],
    n_values: int,
    shard_size: int | None = None,
) -> list[Shard]:
    """Divide all videos into shards, the same for the same data and settings.

    Args:
      lengths: number of elements of every video; 0 if unknown.
      choose: the estimator for sequences of n elements; may raise ValueError.
      n_values: numbers stored per element, of all classes, marginals included.
      shard_size: videos in a shard; default by the size of values and by cost.
    """
    chosen: dict[int, tuple[Estimator | None, str]] = {}
    for n in np.unique(lengths).tolist():
        try:
            chosen[n] = (choose(n), "") if n else (None, "")
        except ValueError as error:
            chosen[n] = (None, str(error))

    padded = {n: n for n in chosen}
    for estimator in {each for each, _ in chosen.values() if each is not None and each.pads}:
        own = [n for n, (each, _) in chosen.items() if each == estimator]
        ends = bucket_ends(lengths[np.isin(lengths, own)].tolist())
        padded |= {n: next(end for end in ends if end >= n) for n in own}

    groups: dict[tuple[int, Estimator | None, str], list[int]] = {}
    for position, n in enumerate(lengths.tolist()):
        groups.setdefault((max(padded[n], 1), *chosen[n]), []).append(position)
    shards: list[Shard] = []
    start = 0
    for n, each, reason in sorted(groups, key=lambda group: (group[0], repr(group[1]), group[2])):
        positions, cost, size = groups[n, each, reason], None, _SHARD_VIDEOS
        if each is not None:
            example = job.example(n)
            cost = request_cost(job.game, example, each.request(GameInfo.of(job.game, n)))
            size = min(size, int(_SHARD_BYTES // (4 * n * n_values + 4 * len(job.class_names))))
            size = min(size, int(_SHARD_FLOPS // (cost.flops or 1)))
            block = block_size(each, job.game, example)
            size = max(size // block * block, block)
        size = shard_size or size
        for first in range(0, len(positions), size):
            part = np.array(positions[first : first + size])
            shards.append(Shard(part, start, n, each, reason, cost))
            start += len(part)
    return shards


def share_of_host(
    shards: Sequence[Shard], todo: Sequence[int], host: int, n_hosts: int
) -> list[int]:
    """Return the indices of the shards `todo` that one of several hosts computes.

    The most expensive first, each to the host with the least work: the same division on every host.
    Indices are in ascending order.
    """

    def work(index: int) -> float:
        cost = shards[index].cost
        return len(shards[index].positions) * float((cost and cost.flops) or 1)

    load, mine = [0.0] * n_hosts, []
    for index in sorted(todo, key=lambda index: (-work(index), index)):
        least = load.index(min(load))
        load[least] += work(index)
        if least == host:
            mine.append(index)
    return sorted(mine)
