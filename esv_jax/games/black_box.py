"""Any Python callable on a batch of clips, such as a PyTorch or a remote model."""

from __future__ import annotations

import dataclasses
import warnings as python_warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax import Array

from esv_jax.checks import (
    AnyArray,
    Link,
    ScoresOf,
    Shaped,
    expect,
    expect_choice,
    expect_int,
    is_concrete,
    message,
)
from esv_jax.games.host_scores import HostCounts, HostScores
from esv_jax.games.protocol import Cost, SubsetGame
from esv_jax.games.removal import LAYOUTS, Layout, Removal, check_removal
from esv_jax.subsequences.samples import flat_bits

Units = Literal["probabilities", "any"]
UNITS: tuple[Units, ...] = get_args(Units)

_PRIOR_SUM = 1e-3  # how far from 1 the sum of a prior of probabilities may be
_BELOW_ZERO = -1e-3  # scores lower than this are no probabilities, rounded or not
_SCORE_SUM = 1e-2  # how far from 1 the sum of probabilities may be, in half precision say


@dataclasses.dataclass(frozen=True, eq=False)
class BlackBox(SubsetGame):
    """A game from `fn(clips) -> scores`, evaluated on the host by an ordinary loop.

    A video model in PyTorch, 16 frames, values with their error bars:

        def fn(clips):  # (B, s, h, w, 3), as x has them
            with torch.no_grad():
                video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3) / 255  # (B, 3, s, h, w)
                return network(video).softmax(-1)

        att = ej.explain(ej.BlackBox(fn), frames, prior=np.full(C, 1 / C),
                         estimator=ej.SizeRegression(budget=1024), key=jax.random.key(0))
        low, high = att.interval()  # (16, C) each, 95 %

    Subsequences are given to `fn` in batches of clips of one length, gathered from x as needed,
    on the calling thread. Within one call of `explain` or `explain_batch` every distinct
    subsequence is evaluated once per sequence, and the whole sequence twice: where its two scores
    differ, the model is stochastic: the result has a warning and is not `exact`. The next call
    evaluates all anew, since the model may have changed. But if a call fails (`fn` raises, or
    Ctrl-C), finished scores are kept, and a next call that begins with the same sequence continues
    from there: it evaluates the whole sequence again, and uses the rest if those scores are within
    1e-4 of the largest. `forget` drops all.

    Attributes:
      fn: (B, s, ...) NumPy array of B clips, in the dtype of x, integers such as uint8 included
        -> (B, C) scores, an array of NumPy, JAX, PyTorch or alike; (B,) for one class; or an
        object or dict with such `logits`. Scores are in the units of the prior, commonly
        probabilities, and have to be finite. The result must depend on the clip alone, not on the
        other clips of the batch. Or an object with `logits`, a JAX function of one clip, such as
        `load_clip_model(path)`: its softmax is taken.
      removal: replacement of a clip's absent frames; its name is kept in `Attribution.removal`.
        "drop": the s frames that are left, a clip of s frames. Otherwise the clip keeps its n
        frames and an absent one is replaced: by the nearest kept frame, the earlier of two
        ("freeze"), the mean of the clip's frames ("mean"), zeros ("zeros"), or itself under a
        spatial blur ("blur", a Gaussian of a tenth of the shorter side). Or a function of
        (frames (n, ...), kept (n,) bool) that returns the clip, of a length that depends on the
        number of kept frames alone.
      batch_size: most clips per call of `fn`.
      progress: function that makes a progress bar, e.g. `tqdm.tqdm`: called with `total` (the
        number of distinct subsequences), `unit` and `desc`, then `.update(clips)` and `.close()`.
        A bar per call, or per round with a tolerance. None shows nothing.
      scores: "probabilities" compares the whole sequence's scores with a prior that is a
        probability vector: negative ones are logits and an error, a sum other than 1 (by more than
        0.01) a warning in the result. Nothing is compared with another prior, or under "any".
      probe: whether `probe_sensitivity` is run beforehand, in a batch on the first sequence:
        positions that do not affect the output are then reported in `warnings`. Its clips are not
        among `Attribution.n_evaluations`.
      layout: axes of a frame for "blur": "hw", "hwc" or "chw"; default found from its shape.
      link: "identity"; scores are taken as they are.
    Raises:
      TypeError: if `fn` is not callable. ValueError: on another removal, layout or units of
      scores, batch_size < 1. While explaining: ValueError where `fn` gives another shape, values
      that are not finite, logits beside a prior of probabilities, or fails on shorter clips (with
      the way out), and whatever else `fn` raises, unchanged. TypeError where x is traced: Python
      functions can be neither compiled nor differentiated by JAX.
    """

    auto_exact: ClassVar[int] = 8  # elements: 255 clips
    on_host: ClassVar[bool] = True

    fn: Callable[[np.ndarray], Any]
    removal: Removal = "drop"
    batch_size: int = 32
    progress: Callable[..., Any] | None = None
    scores: Units = "probabilities"
    probe: bool = False
    layout: Layout | None = None
    link: Link = dataclasses.field(default="identity", init=False)
    host: HostScores = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_removal(self.removal)
        expect_choice("scores", self.scores, UNITS)
        expect_int("batch_size", self.batch_size, 1)
        if self.layout is not None:
            expect_choice("layout", self.layout, LAYOUTS)
        fn = ScoresOf(self.fn, "clips") if hasattr(self.fn, "logits") else self.fn
        functions = [("fn", fn, "a function of clips (B, s, ...)")]
        if self.progress is not None:
            what = "None or what makes a bar, e.g. tqdm.tqdm"
            functions.append(("progress", self.progress, what))
        for name, value, what in functions:
            if not callable(value):
                raise TypeError(message(name, what, f"{type(value).__name__} {value!r}"))
        host = HostScores(fn, self.removal, self.layout, self.batch_size, self.progress)
        object.__setattr__(self, "host", host)

    @property
    def removal_name(self) -> str:
        """Name of the removal; of a function its own."""
        if not callable(self.removal):
            return self.removal
        return getattr(self.removal, "__name__", type(self.removal).__name__)

    @property
    def counts(self) -> HostCounts:
        """Calls of `fn` and clips in them, since this game was made."""
        return self.host.counts

    def forget(self) -> None:
        """Drop all scores kept after a call that failed."""
        self.host.forget()

    def begin(self, x: AnyArray) -> None:
        """Evaluate the whole sequence, the first step of a call, so that C and dtype are known.

        Raises: as `fn` does on it. TypeError: if x is traced.
        """
        expect(x.ndim >= 1, "x", "frames along the first axis", f"shape {x.shape}")
        if not is_concrete(x):
            expected = "an array with values: a BlackBox runs on the host and cannot be traced"
            way_out = "Call explain outside of them, or use VariableLength with a JAX function."
            raise TypeError(message("x", expected, "a tracer of jit, vmap or grad", way_out))
        self.host.begin(np.asarray(x))

    def warnings(self, x: AnyArray, prior: AnyArray) -> tuple[str, ...]:
        """Scores in other units than the prior, noise, positions that do not affect the output.

        Raises:
          ValueError: logits beside a prior of probabilities. As `fn` does, if probed.
        """
        clip = np.asarray(x)
        found: tuple[str, ...] = ()
        whole, noise = self.host.whole(clip), self.host.noise(clip)
        if self.scores == "probabilities" and whole is not None:
            found += _expect_probabilities(whole, np.asarray(prior))
        if noise:
            text = (
                f"The model is stochastic: two scores of the whole sequence differ by up to "
                f"{noise:.3g}. The values contain this noise and are not exact. Switch dropout "
                "and sampling off (`model.eval()`)."
            )
            python_warnings.warn(text, stacklevel=4)
            found += (text,)
        if self.probe and len(clip) >= 2:
            found += self.host.noted(clip, lambda: self._probed(clip))
        return found

    def noise(self, x: AnyArray) -> float:
        """Largest difference between two scores of the whole sequence; 0 where there is none."""
        return self.host.noise(np.asarray(x))

    def progress_bar(self, total: int) -> AbstractContextManager[None]:
        """Show a bar over `total` scores, where `progress` is given."""
        return self.host.progress_bar(total)

    def _probed(self, clip: np.ndarray) -> tuple[str, ...]:
        found = _probe(self, clip, jax.random.key(0), None, 2)
        return (f"The model ignores {found}.",) if any(found.ignored) else ()

    def output(self, x: Shaped) -> jax.ShapeDtypeStruct:
        """(C,) and the dtype of fn's scores; where no clip was scored yet, by a trial.

        The trial is on x, or on zeros where x is a ShapeDtypeStruct.
        """
        if self.host.output is None:
            if isinstance(x, jax.ShapeDtypeStruct):
                self.host.ask(np.zeros((1, *x.shape), x.dtype))
            else:
                self.begin(x)
        assert self.host.output is not None
        n_classes, dtype = self.host.output
        return jax.ShapeDtypeStruct((n_classes,), dtype)

    def subset_logits(self, x: np.ndarray, member: np.ndarray) -> np.ndarray:
        """Scores (m, C) of the subsequences `member` (m, n), each evaluated once per call."""
        self.output(x)
        return self.host.scores(x, member)

    def subset_cost(self, x: Shaped, m: int) -> Cost:
        """See `SubsetGame.subset_cost`; the model's own memory is not known."""
        out = self.output(x)
        return Cost(m, m, m * (6 * out.shape[0] * out.dtype.itemsize + 100), None)


def _expect_probabilities(scores: np.ndarray, prior: np.ndarray) -> tuple[str, ...]:
    """Warn where the prior is a probability vector but the scores (C,) are not."""
    if prior.min() < 0 or abs(prior.sum(dtype=np.float64) - 1) > _PRIOR_SUM:
        return ()
    total = scores.sum(dtype=np.float64)
    expect(
        bool(scores.min() >= _BELOW_ZERO),
        "fn",
        "probabilities, as the prior has them",
        f"scores of the whole sequence down to {scores.min():.4g}, such as logits",
        "Apply softmax in fn (sigmoid for independent classes), or give the prior in the units of "
        "the scores; if both are as they should be, BlackBox(..., scores='any').",
    )
    if abs(total - 1) <= _SCORE_SUM:
        return ()
    return (
        f"The prior is a probability vector, but the scores of the whole sequence sum to "
        f"{total:.4g}, not 1: values are differences between the two. For exclusive classes apply "
        "softmax in fn; for independent ones give each class's own prior probability; "
        "BlackBox(..., scores='any') takes both as they are.",
    )


class Sensitivity(NamedTuple):
    """Result of `probe_sensitivity`.

    Attributes:
      lengths: the lengths of subsequences tried.
      ignored: for each, the positions (frames of the clip given to `fn`) whose frame makes no
        difference to any score, in any trial.
    """

    lengths: tuple[int, ...]
    ignored: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        """A short description."""
        found = [
            f"positions {', '.join(map(str, positions))} of {length}"
            for length, positions in zip(self.lengths, self.ignored, strict=True)
            if positions
        ]
        return "; ".join(found) or "every position matters at every length tried"


def probe_sensitivity(
    game: BlackBox, x: Any, *, key: Array, lengths: tuple[int, ...] | None = None, trials: int = 2
) -> Sensitivity:
    """Find positions that do not affect the output, as with temporal strides and tubelets.

    In the first s frames of a random order, kept in time, one position at a time gets another
    frame of x; where no score changes by more than rounding in any trial, it is ignored. An ESV
    of an element then reflects its position as much as its content.

    Args:
      game: the black box; `fn` gets clips of the lengths tried, whatever the removal.
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
        python_warnings.warn(f"the model ignores {result}.", stacklevel=2)
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
    bits = np.asarray(flat_bits(key, (len(lengths), trials, 2, n)))
    ignored = []
    for s, of_length in zip(lengths, bits, strict=True):
        matters = np.zeros(s, bool)
        for order, other in of_length:
            kept = np.sort(np.argsort(order, kind="stable")[:s])
            index = np.tile(kept, (s + 1, 1))  # row p + 1 has another frame at position p
            for p in range(s):
                others = np.setdiff1d(np.arange(n), kept[p])
                index[p + 1, p] = others[other[p] % len(others)]
            scores = game.host.ask(clip[index])
            change = np.abs(scores[1:] - scores[0]).max(1)
            matters |= change > 1e-6 * np.abs(scores).max()
        ignored.append(tuple(np.flatnonzero(~matters).tolist()))
    return Sensitivity(tuple(lengths), tuple(ignored))
