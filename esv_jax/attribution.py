"""The result record: Element Shapley Values with what is needed to read and to trust them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect
from esv_jax.extras import require
from esv_jax.notebook import record_html

if TYPE_CHECKING:
    import pandas
    import xarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attribution:
    """Element Shapley Values (ESVs) of one sequence, or of a batch with a leading axis.

    All values are in the units of the scores (probabilities under the softmax link).

    Attributes:
      values: (n, C) ESVs, signed. `values[i, c]` is the share of element i in
        `scores[c] - prior[c]`. In a batch (B, N, C), zero beyond a sequence's length.
      scores: (C,) scores of the whole sequence, after the link.
      prior: (C,) scores of the empty sequence.
      marginals: (n, n, C) mean marginal contributions: row s - 1 holds what each element adds, on
        average, on joining a subsequence of s - 1 elements. None where not asked for.
      std_error: (n, C) standard error of `values`; None where exact or not estimable.
      coverage: (n, n) subsequences behind each (scale, element) marginal: the smaller of those
        with the element at that scale and those without it one scale below. None where exact.
      n_evaluations: model (head) evaluations of distinct subsequences behind the result.
      lengths: (B,) elements per sequence in a batch, else None.
      within_tolerance: where a tolerance was asked for, whether every interval is within it; (B,)
        in a batch.
      exact: whether every subsequence was evaluated.
      warnings: what a reader should know beyond the numbers, a sentence each.
      removal: how a `BlackBox` game removed elements, e.g. "drop"; None of other games.
    """

    values: Array
    scores: Array
    prior: Array
    marginals: Array | None = None
    std_error: Array | None = None
    coverage: Array | None = None
    n_evaluations: Array | int = 0
    lengths: Array | None = None
    within_tolerance: Array | bool | None = None
    exact: bool = dataclasses.field(default=False, metadata={"static": True})
    warnings: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    removal: str | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def n(self) -> int:
        """Elements per sequence (in a batch, padding included)."""
        return self.values.shape[-2]

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return self.values.shape[-1]

    def for_class(self, c: int | Array) -> Array:
        """ESVs (..., n) for class `c`."""
        return self.values[..., self._class(c)]

    def contrast(self, a: int | Array, b: int | Array) -> Array:
        """Class-contrastive ESVs (..., n): for class `a` minus for class `b`.

        Source: Price & Damen (2020), section 3.3; `a` is commonly the true and `b` the predicted
        class.
        """
        return self.for_class(a) - self.for_class(b)

    def supporting(self, c: int | Array) -> Array:
        """Boolean (..., n): elements whose ESV for class `c` is positive."""
        return self.for_class(c) > 0

    def distracting(self, c: int | Array) -> Array:
        """Boolean (..., n): elements whose ESV for class `c` is zero or negative.

        Padding of a batch is neither supporting nor distracting.
        """
        return ~self.supporting(c) & self._present()

    def evidential_score(self, c: int | Array | None = None) -> Array:
        """What the sequence adds to the prior: scores - prior; (..., C), or (...) for class `c`."""
        evidence = self.scores - self._prior_like_scores()
        return evidence if c is None else evidence[..., self._class(c)]

    def interval(self, confidence: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper ends (..., n, C) of normal intervals around `values`.

        Args:
          confidence: share of intervals that should cover the exact value, in (0, 1).
        Raises:
          ValueError: a confidence out of range, or a sampled result without standard errors.
        """
        half = self.half_width(confidence)
        return self.values - half, self.values + half

    def half_width(self, confidence: float = 0.95) -> Array:
        """Half of the interval's width, (..., n, C); zero where exact. See `interval`."""
        expect(0 < confidence < 1, "confidence", "a share in (0, 1)", confidence)
        if self.std_error is None:
            expect(
                self.exact,
                "attribution",
                "standard errors",
                "a sampled result without",
                "Give the estimator two or more iterations or draws.",
            )
            return jnp.zeros_like(self.values)
        return self.std_error * NormalDist().inv_cdf(0.5 + confidence / 2)

    def efficiency_gap(self) -> Array:
        """Sum of the ESVs minus the evidential score, (..., C): zero but for rounding if exact."""
        return self.values.sum(-2) - self.evidential_score()

    def __len__(self) -> int:
        """Sequences in a batch."""
        expect(self.lengths is not None, "attribution", "a batch to take the length of", "one")
        return self.values.shape[0]

    def __getitem__(self, index: int) -> Attribution:
        """One sequence of a batch, padding removed.

        Raises:
          ValueError: if this is not a batch. IndexError: beyond the batch.
        """
        if self.lengths is None:
            raise ValueError("attribution: expected a batch to index, got one sequence.")
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of a batch of {len(self)}.")
        n = int(self.lengths[index])

        def take(leaf: Any, *trimmed: int) -> Any:
            if leaf is None:
                return None
            return leaf[index][tuple(slice(n) for _ in trimmed)]

        return dataclasses.replace(
            self,
            values=take(self.values, 0),
            scores=take(self.scores),
            prior=self.prior,
            marginals=take(self.marginals, 0, 1),
            std_error=take(self.std_error, 0),
            coverage=take(self.coverage, 0, 1),
            n_evaluations=jnp.asarray(self.n_evaluations)[index],
            lengths=None,
            within_tolerance=take(self.within_tolerance),
        )

    def to_xarray(self, class_names: tuple[str, ...] | None = None) -> xarray.Dataset:
        """The record of one sequence as a labelled dataset: dimensions scale, element, class.

        Needs the `files` extra. Scales are labelled 1..n, elements 0..n-1, classes by name where
        given.
        """
        expect(self.lengths is None, "attribution", "one sequence", "a batch", "Index it first.")
        xarray = require("xarray", "files")
        names: Sequence[Any] = class_names or range(self.n_classes)
        expect(len(names) == self.n_classes, "class_names", f"{self.n_classes} names", len(names))
        variables = {
            "values": (("element", "class"), self.values),
            "scores": (("class",), self.scores),
            "prior": (("class",), self.prior),
            "marginals": (("scale", "element", "class"), self.marginals),
            "std_error": (("element", "class"), self.std_error),
            "coverage": (("scale", "element"), self.coverage),
        }
        return xarray.Dataset(
            {
                name: (dims, np.asarray(leaf))
                for name, (dims, leaf) in variables.items()
                if leaf is not None
            },
            coords={
                "element": np.arange(self.n),
                "class": np.array(names),
                "scale": np.arange(1, self.n + 1),
            },
            attrs={"exact": int(self.exact), "n_evaluations": int(self.n_evaluations)}
            | ({} if self.removal is None else {"removal": self.removal}),
        )

    def to_dataframe(self, class_names: tuple[str, ...] | None = None) -> pandas.DataFrame:
        """ESVs in long form: one row per element and class. Needs the `files` extra."""
        dataset = self.to_xarray(class_names)
        names = [name for name in ("values", "std_error") if name in dataset]
        return dataset[names].to_dataframe().reset_index().rename(columns={"values": "esv"})

    def plot(self, c: int | None = None, **options: Any) -> Any:
        """ESVs of one class of one sequence as a figure: bars, or a line of more than 16 elements.

        Args:
          c: the class; default that of the highest score. options: as `plots.plot` takes them, e.g.
            class_name, title, ax.
        Returns:
          matplotlib's axes; in a notebook, `att.plot().figure` shows itself.
        Raises:
          ImportError: without the `plots` extra. ValueError: a batch, a class out of range.
        """
        return require("esv_jax.plots", "plots").plot(self, c, **options)

    def _repr_html_(self) -> str:
        """What a notebook shows: the numbers of the top class and bars of its ESVs."""
        return record_html(self)

    def _class(self, c: int | Array) -> int | Array:
        """Refuse an index that JAX would clamp without a word."""
        if isinstance(c, int | np.integer) and not 0 <= c < self.n_classes:
            raise ValueError(f"class: expected an index in 0..{self.n_classes - 1}, got {c}.")
        return c

    def _prior_like_scores(self) -> Array:
        return jnp.broadcast_to(self.prior, self.scores.shape)

    def _present(self) -> Array:
        """Which elements are there, broadcastable to (..., n)."""
        if self.lengths is None:
            return jnp.ones(self.n, bool)
        return jnp.arange(self.n)[None, :] < self.lengths[:, None]
