"""Any Python callable on a batch of clips, such as a PyTorch or a remote model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_choice, expect_int, is_concrete, message
from esv_jax.games.host_scores import HostCounts, HostScores
from esv_jax.games.protocol import Carry, Cost, Tile, Unseen
from esv_jax.games.removal import REMOVALS, Removal
from esv_jax.games.rowwise import fold_rows
from esv_jax.links import Link
from esv_jax.subsequences import Lattice, Samples
from esv_jax.subsequences.samples import count_distinct

T = TypeVar("T")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class BlackBox:
    """A game from `fn(clips) -> scores`, evaluated on the host.

    Subsequences are put to `fn` in batches of clips of one length. Within one call of `explain`
    every distinct subsequence is evaluated once per sequence, the whole one included; nothing is
    remembered beyond it. Each game compiles its own programs: make one per model, not per video.

    Attributes:
      fn: (B, s, ...) NumPy array of B clips, in the dtype of x -> (B, C) scores, an array of
        NumPy, JAX, PyTorch or alike. Scores are in the units of the prior, commonly
        probabilities, and have to be finite; they need not sum to one. The result must depend
        on the clip alone, not on its place or company in the batch.
      removal: what a clip is without some of its n frames. "drop": the s frames that are left,
        a clip of s frames. Otherwise the clip keeps its n frames and a missing one is replaced,
        by the nearest kept frame, the earlier of two ("freeze"), the mean of the clip's frames
        ("mean"), zeros ("zeros"), or itself under a spatial blur ("blur", frames (h, w, ...);
        a Gaussian of a tenth of the shorter side).
      batch_size: most clips per call of `fn`.
      progress: makes a progress bar, e.g. `tqdm.tqdm`: called with `unit` and `desc`, then
        `.update(clips)` and `.close()`. None shows nothing.
      link: "identity"; scores are taken as they are.
    Raises:
      TypeError: if `fn` is not callable. ValueError: on another removal or batch_size < 1.
      While explaining: ValueError where `fn` gives another shape or what is not finite, and
      whatever `fn` itself raises, unchanged. TypeError where x is traced: what runs on the host
      can be neither compiled nor differentiated by JAX.
    """

    max_auto_exact: ClassVar[int] = 8  # elements: 255 clips

    fn: Callable[[np.ndarray], Any]
    removal: Removal = "drop"
    batch_size: int = 32
    progress: Callable[..., Any] | None = None
    link: Link = dataclasses.field(default="identity", init=False)
    host: HostScores = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        expect_choice("removal", self.removal, REMOVALS)
        expect_int("batch_size", self.batch_size, 1)
        for name, value, what in (
            ("fn", self.fn, "a function of clips (B, s, ...)"),
            ("progress", self.progress, "None or what makes a bar, e.g. tqdm.tqdm"),
        ):
            if not (callable(value) or (name == "progress" and value is None)):
                raise TypeError(message(name, what, f"{type(value).__name__} {value!r}"))
        host = HostScores(self.fn, self.removal, self.batch_size, self.progress)
        object.__setattr__(self, "host", host)

    @property
    def counts(self) -> HostCounts:
        """Calls of `fn` and clips in them, since this game was made."""
        return self.host.counts

    def check(self, x: Array) -> None:
        """Evaluate the whole sequence, so that C and dtype are known; forget older scores.

        Raises: as `fn` does on it. TypeError: if x is traced.
        """
        expect(x.ndim >= 1, "x", "frames along the first axis", f"shape {x.shape}")
        if not is_concrete(x):
            raise TypeError(_traced())
        self.host.forget()
        self.host.try_out(np.asarray(x))

    def _output(self, x: Any) -> tuple[int, np.dtype]:
        if self.host.output is None:
            if not is_concrete(x):
                raise TypeError(_traced())
            concrete = not isinstance(x, jax.ShapeDtypeStruct)
            self.host.try_out(np.asarray(x) if concrete else np.zeros(x.shape, x.dtype))
        output = self.host.output
        assert output is not None
        return output

    def dtype(self, x: Any) -> jnp.dtype:
        """That of fn's scores, float32 at least (and at most, without x64)."""
        return self._output(x)[1]

    def n_classes(self, x: Any) -> int:
        """C; where no clip has been seen yet, and x is a shape, by a trial on zeros."""
        return self._output(x)[0]

    def row_logits(self, x: Array, member: Array, valid: Array | None = None) -> Array:
        """Scores (m, C) of the subsequences `member` (m, n); 0 where not `valid` (m,)."""
        c, dtype = self._output(x)
        shape = jax.ShapeDtypeStruct((member.shape[0], c), dtype)
        valid = jnp.ones(member.shape[0], bool) if valid is None else valid
        return jax.pure_callback(
            self.host.answer, shape, x, member, valid, vmap_method="sequential"
        )

    def fold_lattice(
        self, x: Array, lattice: Lattice, visit: Callable[[Carry, Tile], Carry], carry: Carry
    ) -> Carry:
        """See `Game.fold_lattice`. Cost: 2**n - 1 clips."""
        return fold_rows(lattice, lambda member: self.row_logits(x, member), visit, carry)

    def sample_logits(self, x: Array, samples: Samples, unseen: Unseen) -> tuple[Array, Array]:
        """See `Game.sample_logits`; elements that no sample has are padding, not of the clip."""
        del unseen  # nothing is combined across scales
        c, dtype = self._output(x)
        shape = jax.ShapeDtypeStruct((*samples.valid.shape, c), dtype)
        logits = jax.pure_callback(
            self._answer_samples, shape, x, samples.member, samples.valid, vmap_method="sequential"
        )
        return logits, samples.valid

    def _answer_samples(self, x: Any, member: Any, valid: Any) -> np.ndarray:
        """Scores of all scales' samples (n, m, C), together, on the clip without its padding."""
        member, valid = np.asarray(member), np.asarray(valid)
        present = (member & valid[..., None]).any((0, 1))
        n = int(np.flatnonzero(present).max(initial=-1)) + 1
        rows = member.reshape(-1, member.shape[-1])[:, :n]
        scores = self.host.answer(np.asarray(x)[:n], rows, valid.reshape(-1))
        return scores.reshape(*valid.shape, -1)

    def lattice_cost(self, x: Any, lattice: Lattice) -> Cost:
        """See `Game.lattice_cost`; the model's own memory is not known."""
        tile = lattice.n_lows * lattice.tile_width
        c, dtype = self._output(x)
        n_bytes = 4 * tile * c * dtype.itemsize + 2**lattice.n * (c * dtype.itemsize + 100)
        return Cost(2**lattice.n, 2**lattice.n - 1, n_bytes, None)

    def sample_cost(self, x: Any, m: int) -> Cost:
        """See `Game.sample_cost`."""
        rows = x.shape[0] * max(m, x.shape[0])
        c, dtype = self._output(x)
        return Cost(rows, rows, rows * (6 * c * dtype.itemsize + 100), None)

    def n_evaluations(self, samples: Samples) -> Array:
        """Distinct subsequences of all scales."""
        return count_distinct(samples)


def _traced() -> str:
    return message(
        "x",
        "an array with values: a BlackBox runs on the host and cannot be traced",
        "a tracer of jit, vmap or grad",
        "Call explain outside of them, or use VariableLength with a JAX function.",
    )


def run_to_end(game: Any, call: Callable[[], T]) -> T:
    """call(), a computation that may ask `game` for scores.

    For a game on the host the call runs to its end in a thread of its own while this thread
    evaluates the game's `fn`: under the caller's settings (`torch.no_grad()`, say), interruptible,
    and with its errors raised here as they are. For any other game it is just `call()`.
    """
    host = getattr(game, "host", None)
    return host.serve(call) if isinstance(host, HostScores) else call()


class Sensitivity(NamedTuple):
    """What `probe_sensitivity` found.

    Attributes:
      lengths: the lengths of subsequences tried.
      ignored: for each, the positions (frames of the clip given to `fn`) whose frame makes no
        difference to any score, in any trial.
    """

    lengths: tuple[int, ...]
    ignored: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        """One line for people."""
        found = [
            f"positions {', '.join(map(str, positions))} of {length}"
            for length, positions in zip(self.lengths, self.ignored, strict=True)
            if positions
        ]
        return "; ".join(found) if found else "every position matters at every length tried"


def probe_sensitivity(
    game: BlackBox,
    x: Any,
    *,
    key: Array,
    lengths: tuple[int, ...] | None = None,
    trials: int = 2,
) -> Sensitivity:
    """Which positions the model ignores, as temporal strides and tubelets make it do.

    In the first s frames of a random order, kept in time, one position at a time gets another
    frame of x; where no score changes by more than rounding in any trial, it is ignored. An ESV
    of an element then says where it lands, as much as what it shows.

    Args:
      game: what is probed; `fn` sees clips of the lengths tried, whatever the removal.
      x: (n, ...), as for `explain`. Frames should differ; equal ones look ignored.
      key: draws the frames; consumed.
      lengths: of clips to try, 1..n; default n, and unless frames are replaced rather than
        dropped also n - 1, about n / 2 and 2.
      trials: clips per length, >= 1.
    Returns:
      `Sensitivity`; with ignored positions also a UserWarning.
    Cost: trials * (s + 1) clips per length s.
    """
    clip = np.asarray(x)
    n = len(clip)
    expect(n >= 2, "x", "at least two frames to exchange", f"shape {clip.shape}")
    expect_int("trials", trials, 1)
    if lengths is None:
        tried = {n, n - 1, (n + 1) // 2, 2} if game.removal == "drop" else {n}
        lengths = tuple(sorted(s for s in tried if s >= 1))
    for s in lengths:
        expect(1 <= s <= n, "lengths", f"lengths in 1..{n}", s)
    seed = np.asarray(jax.random.bits(key, (4,), jnp.uint32))
    rng = np.random.default_rng(seed)
    ignored = []
    for s in lengths:
        matters = np.zeros(s, bool)
        for _ in range(trials):
            order = rng.permutation(n)
            kept = np.sort(order[:s])
            place = np.tile(kept, (s + 1, 1))  # row p + 1 has another frame at position p
            for p in range(s):
                place[p + 1, p] = rng.choice(np.setdiff1d(np.arange(n), kept[p]))
            scores = game.host.ask(clip[place])
            change = np.abs(scores[1:] - scores[0]).max(1)
            matters |= change > 1e-6 * np.abs(scores).max()
        ignored.append(tuple(np.flatnonzero(~matters).tolist()))
    result = Sensitivity(tuple(lengths), tuple(ignored))
    if any(ignored):
        warnings.warn(f"the model ignores {result}.", stacklevel=2)
    return result
