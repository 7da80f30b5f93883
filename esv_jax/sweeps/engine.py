"""Explanation of videos in blocks on all devices of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from esv_jax.attribution import Attribution
from esv_jax.batches import (
    block_program,
    block_size,
    explain_batch,
    make_block,
    shared_plan,
)
from esv_jax.checks import AnyArray, message
from esv_jax.estimators import Estimator
from esv_jax.explanations import ELEMENT_AXES
from esv_jax.games.protocol import Game
from esv_jax.games.scoring import GameInfo, request_cost
from esv_jax.inputs import free_bytes
from esv_jax.tolerance import out_of_memory

Program = Callable[..., Attribution]
_FIELDS = ("values", "scores", "std_error", "marginals", "n_evaluations")


class Values(NamedTuple):
    """Values of explained sequences.

    Attributes:
      fields: arrays with a leading axis over sequences, by the name of the field in `Attribution`.
      warnings: texts.
    """

    fields: dict[str, np.ndarray]
    warnings: tuple[str, ...]


class Engine:
    """Compiled programs of one game, and the devices they run on.

    Videos go to the devices in blocks of one shape, one block to each device at a time, by
    `shard_map` over a mesh with the one axis `video`. A video's bits depend only on the shape of
    its block: not on the number of devices, the order or other videos.

    Attributes:
      compile_seconds: time spent on compiling.
      n_elements, n_padded: number of elements explained, and the same with the padding of sequences
        and of blocks.
      block_sizes: number of videos in a block, by (estimator, n), where memory was short or a size
        was given.
    """

    def __init__(
        self,
        game: Game,
        prior: AnyArray,
        key: Array | None,
        *,
        marginals: bool,
        batch_size: int | None = None,
    ) -> None:
        """Put the game on the devices.

        Args:
          key: of the sweep; None if nothing is drawn.
          batch_size: videos in a block; default by shape and memory (see `block_size`).
        """
        mesh = Mesh(np.array(jax.local_devices()), ("video",))
        self._by_video, self._everywhere = NamedSharding(mesh, P("video")), NamedSharding(mesh, P())
        self._mesh, self._marginals, self._batch_size = mesh, marginals, batch_size
        self._game = game if game.on_host else jax.device_put(game, self._everywhere)
        self._host_prior, self._key = prior, key
        self._prior = jax.device_put(prior, self._everywhere)
        self._programs: dict[tuple[Estimator, tuple[int, ...]], Program] = {}
        self._plan: tuple[tuple[Estimator, int] | None, object] = (None, None)
        self.block_sizes: dict[tuple[Estimator, int], int] = {}
        self.compile_seconds = 0.0
        self.n_elements = self.n_padded = 0

    @property
    def n_programs(self) -> int:
        """Number of compiled programs."""
        return len(self._programs)

    def explain(
        self, estimator: Estimator, sequences: Sequence[np.ndarray], uids: Sequence[str], n: int
    ) -> Values:
        """Explain sequences, in order; their values are padded to n elements with zeros.

        Args:
          sequences: (n_i, ...) each, n_i <= n; n_i = n for an estimator that does not pad.
          uids: their names, for their keys.
        Raises:
          MemoryError: a single video does not fit.
        """
        if self._game.on_host:
            return self._on_host(estimator, sequences, uids)
        shape = (n if estimator.pads else estimator.padded_length(n), *sequences[0].shape[1:])
        example = jax.ShapeDtypeStruct(shape, sequences[0].dtype)
        block = self._block_size(estimator, example)
        while True:
            try:
                return self._in_blocks(estimator, sequences, uids, n, example, block)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if block == 1:
                    expected = f"space for a video of {n} elements"
                    got = f"a device that has too little for one ({error})"
                    raise MemoryError(message("memory", expected, got)) from error
            block //= 2
            self.block_sizes[estimator, n] = block

    def _block_size(self, estimator: Estimator, example: jax.ShapeDtypeStruct) -> int:
        if (estimator, example.shape[0]) in self.block_sizes:
            return self.block_sizes[estimator, example.shape[0]]
        if self._batch_size is not None:
            self.block_sizes[estimator, example.shape[0]] = self._batch_size
            return self._batch_size
        block = block_size(estimator, self._game, example)
        request = estimator.request(GameInfo.of(self._game, example.shape[0]))
        one = request_cost(self._game, example, request).n_bytes
        while block > 1 and block * one > free_bytes():
            block //= 2
        return block

    def _in_blocks(
        self,
        estimator: Estimator,
        sequences: Sequence[np.ndarray],
        uids: Sequence[str],
        n: int,
        example: jax.ShapeDtypeStruct,
        block: int,
    ) -> Values:
        rows = block * self._mesh.size
        plan = self._plan_for(estimator, n)
        results = []
        for start in range(0, len(sequences), rows):
            part, names = sequences[start : start + rows], uids[start : start + rows]
            made = make_block(estimator, part, names, self._key, (rows, *example.shape))
            xs, lengths = jax.device_put((made.xs, made.lengths), self._by_video)
            keys = None if made.keys is None else jax.device_put(made.keys, self._by_video)
            arguments = (self._game, xs, self._prior, keys, lengths, plan)
            results.append(self._program(estimator, arguments)(*arguments))
        fields = {
            name: each[(slice(len(sequences)), *[slice(n)] * ELEMENT_AXES[name])]
            for name, each in _fields_of(results).items()
        }
        self.n_elements += sum(map(len, sequences))
        self.n_padded += len(results) * rows * example.shape[0]
        return Values(fields, results[0].warnings)

    def prepare(self, estimator: Estimator, n: int) -> None:
        """Make the draw shared by sequences of n elements, if there is one; it is cached."""
        if not self._game.on_host:
            shared_plan(estimator, self._game, n, self._key)

    def _plan_for(self, estimator: Estimator, n: int) -> object:
        """Return the shared draw for n elements, on all devices; the last one is kept."""
        if self._plan[0] != (estimator, n):
            plan = shared_plan(estimator, self._game, n, self._key)
            self._plan = ((estimator, n), jax.device_put(plan, self._everywhere))
        return self._plan[1]

    def _program(self, estimator: Estimator, arguments: tuple[Any, ...]) -> Program:
        """Return the compiled call of an estimator on blocks of this shape."""
        name = (estimator, arguments[1].shape)
        if name not in self._programs:
            program = jax.shard_map(
                block_program(estimator, self._marginals),
                mesh=self._mesh,
                in_specs=(P(), P("video"), P(), P("video"), P("video"), P()),
                out_specs=P("video"),
                check_vma=False,  # loops inside start from constants, which vary over no axis
            )
            started = time.perf_counter()
            self._programs[name] = jax.jit(program).lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - started
        return self._programs[name]

    def _on_host(
        self, estimator: Estimator, sequences: Sequence[np.ndarray], uids: Sequence[str]
    ) -> Values:
        """Explain a game on the host, which makes its own batches."""
        result = explain_batch(
            self._game,
            list(sequences),
            prior=self._host_prior,
            estimator=estimator,
            key=self._key,
            uids=uids,
            marginals=self._marginals,
        )
        self.n_elements += sum(map(len, sequences))
        self.n_padded += sum(map(len, sequences))
        return Values(_fields_of([result]), result.warnings)


def _fields_of(results: Sequence[Attribution]) -> dict[str, np.ndarray]:
    """Return the fields that batches of results have, one batch after the other."""
    present = [name for name in _FIELDS if getattr(results[0], name) is not None]
    return {
        name: np.concatenate([np.asarray(getattr(result, name)) for result in results])
        for name in present
    }
