"""Any Python callable on a batch of clips, such as a PyTorch or a remote model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

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
Units = Literal["probabilities", "any"]
UNITS: tuple[Units, ...] = ("probabilities", "any")

_PRIOR_SUM = 1e-3  # how far from 1 the sum of a prior of probabilities may be
_BELOW_ZERO = -1e-3  # scores lower than this are no probabilities, rounded or not
_SCORE_SUM = 1e-2  # how far from 1 the sum of probabilities may be, in half precision say


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class BlackBox:
    """A game from `fn(clips) -> scores`, evaluated on the host.

    A video model in PyTorch, 16 frames, values with their error bars:

        def fn(clips):  # (B, s, h, w, 3), as x has them
            with torch.no_grad():
                video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3) / 255  # (B, 3, s, h, w)
                return network(video).softmax(-1)

        att = ej.explain(ej.BlackBox(fn), frames, prior=np.full(C, 1 / C),
                         estimator=ej.SizeRegression(budget=1024), key=jax.random.key(0))
        low, high = att.interval()  # (16, C) each, 95 %

    Subsequences are put to `fn` in batches of clips of one length, gathered from x as they are
    needed. Within one call of `explain` or `explain_batch` every distinct subsequence is evaluated
    once per sequence, the whole one included. The next call asks anew, since the model may have
    changed. But if a call fails (`fn` raises, or Ctrl-C), what was evaluated is kept, and a next
    call that begins with the same sequence goes on from there: it asks for the whole sequence
    again, and trusts the rest if those scores are within 1e-4 of the largest. `forget` drops all.
    Each game compiles its own programs: make one per model, not per video.

    Attributes:
      fn: (B, s, ...) NumPy array of B clips, in the dtype of x, integers such as uint8 included
        (64-bit numbers are 32-bit ones without x64) -> (B, C) scores, an array of NumPy, JAX,
        PyTorch or alike. Scores are in the units of the prior, commonly probabilities, and have
        to be finite. The result must depend on the clip alone, not on its place or company in
        the batch.
      removal: what a clip is without some of its n frames; kept in `Attribution.removal`.
        "drop": the s frames that are left, a clip of s frames. Otherwise the clip keeps its n
        frames and a missing one is replaced, by the nearest kept frame, the earlier of two
        ("freeze"), the mean of the clip's frames ("mean"), zeros ("zeros"), or itself under a
        spatial blur ("blur", frames (h, w, ...); a Gaussian of a tenth of the shorter side).
      batch_size: most clips per call of `fn`.
      progress: makes a progress bar, e.g. `tqdm.tqdm`: called with `total` (the most distinct
        subsequences that will be asked for, or None), `unit` and `desc`, then `.update(clips)` and
        `.close()`. A bar per call, or per round with a tolerance. None shows nothing.
      scores: "probabilities" compares the whole sequence's scores with a prior that is a
        probability vector: negative ones are logits and an error, a sum other than 1 (by more than
        0.01) a warning in the result. Nothing is asked beside another prior, or under "any".
      probe: whether `probe_sensitivity` is run beforehand, in a batch on the first sequence:
        positions that the model ignores then are a warning in the result. Its clips are not among
        `Attribution.n_evaluations`.
      link: "identity"; scores are taken as they are.
    Raises:
      TypeError: if `fn` is not callable. ValueError: on another removal or units of scores,
      batch_size < 1. While explaining: ValueError where `fn` gives another shape, what is not
      finite, or logits beside a prior of probabilities, and whatever `fn` itself raises,
      unchanged. TypeError where x is traced: what runs on the host can be neither compiled nor
      differentiated by JAX.
    """

    max_auto_exact: ClassVar[int] = 8  # elements: 255 clips
    any_dtype: ClassVar[bool] = True  # clips may be of integers

    fn: Callable[[np.ndarray], Any]
    removal: Removal = "drop"
    batch_size: int = 32
    progress: Callable[..., Any] | None = None
    scores: Units = "probabilities"
    probe: bool = False
    link: Link = dataclasses.field(default="identity", init=False)
    host: HostScores = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        expect_choice("removal", self.removal, REMOVALS)
        expect_choice("scores", self.scores, UNITS)
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

    def forget(self) -> None:
        """Drop all scores kept after a call that failed."""
        self.host.forget()

    def check(self, x: Array) -> None:
        """Evaluate the whole sequence, so that C and dtype are known; a call begins with it.

        Raises: as `fn` does on it. TypeError: if x is traced.
        """
        expect(x.ndim >= 1, "x", "frames along the first axis", f"shape {x.shape}")
        if not is_concrete(x):
            raise TypeError(_traced())
        self.host.begin(np.asarray(x))

    def notes(self, x: Array, prior: Array) -> tuple[str, ...]:
        """Warnings for the result: scores in other units than the prior, ignored positions.

        Raises: ValueError: logits beside a prior of probabilities. As `fn` does, if probed.
        """
        clip = np.asarray(x)
        found: tuple[str, ...] = ()
        whole = self.host.whole(clip)
        if self.scores == "probabilities" and whole is not None:
            found += _expect_probabilities(whole, np.asarray(prior))
        if self.probe and len(clip) >= 2:
            found += self.host.noted(clip, "probe", lambda: self._probed(clip))
        return found

    def _probed(self, clip: np.ndarray) -> tuple[str, ...]:
        found = _probe(self, clip, jax.random.key(0), None, 2)
        return (f"The model ignores {found}.",) if any(found.ignored) else ()

    def _output(self, x: Any) -> tuple[int, np.dtype]:
        if self.host.output is None:
            if not is_concrete(x):
                raise TypeError(_traced())
            if isinstance(x, jax.ShapeDtypeStruct):
                self.host.ask(np.zeros((1, *x.shape), x.dtype))
            else:
                self.host.begin(np.asarray(x))
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


def _expect_probabilities(scores: np.ndarray, prior: np.ndarray) -> tuple[str, ...]:
    """A warning, or none, where a prior of probabilities meets scores (C,) that are none."""
    if prior.min() < 0 or abs(prior.sum(dtype=np.float64) - 1) > _PRIOR_SUM:
        return ()
    total = scores.sum(dtype=np.float64)
    expect(
        bool(scores.min() >= _BELOW_ZERO),
        "fn",
        "probabilities, as the prior has them",
        f"scores of the whole sequence down to {scores.min():.4g}, such as logits",
        "Apply softmax in fn, or give the prior in the units of the scores; if both are as they "
        "should be, BlackBox(..., scores='any').",
    )
    if abs(total - 1) <= _SCORE_SUM:
        return ()
    return (
        f"The prior is a probability vector, but the scores of the whole sequence sum to "
        f"{total:.4g}, not 1: values are differences between the two. Apply softmax in fn, or give "
        "the prior in the units of the scores; BlackBox(..., scores='any') takes them as they are.",
    )


def run_to_end(
    game: Any, call: Callable[[], T], n_evaluations: Callable[[], int] | None = None
) -> T:
    """call(), a computation that may ask `game` for scores.

    For a game on the host the call runs to its end in a thread of its own while this thread
    evaluates the game's `fn`: under the caller's settings (`torch.no_grad()`, say), interruptible,
    and with its errors raised here as they are. For any other game it is just `call()`.

    Args:
      game, call: these.
      n_evaluations: how many distinct subsequences the call asks for at most, for the game's
        progress bar.
    """
    host = getattr(game, "host", None)
    if not isinstance(host, HostScores):
        return call()
    return host.serve(call, None if n_evaluations is None else n_evaluations())


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
    result = _probe(game, np.asarray(x), key, lengths, trials)
    if any(result.ignored):
        warnings.warn(f"the model ignores {result}.", stacklevel=2)
    return result


def _probe(
    game: BlackBox, clip: np.ndarray, key: Array, lengths: tuple[int, ...] | None, trials: int
) -> Sensitivity:
    """See `probe_sensitivity`."""
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
    return Sensitivity(tuple(lengths), tuple(ignored))
