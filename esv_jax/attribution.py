"""The result record: Element Shapley Values, their errors and their provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_classes, message
from esv_jax.extras import require
from esv_jax.notebook import record_html
from esv_jax.records import register_record, same_records, static_field

if TYPE_CHECKING:
    import pandas
    import xarray


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Element Shapley Values (ESVs) of one sequence, or of a batch with a leading axis.

    A batch comes from `explain_batch` or from `jax.vmap` of `explain`: `len` and an index give its
    sequences, which one sequence refuses. `==` compares all arrays; a record is always true.

    All values are in the units of the scores (probabilities under the softmax link).

    Attributes:
      values: (n, C) ESVs, signed. `values[i, c]` is the share of element i in
        `scores[c] - prior[c]`. In a batch (B, N, C), zero beyond a sequence's length.
      scores: (C,) scores of the whole sequence, after the link.
      prior: (C,) scores of the empty sequence.
      marginals: (n, n, C) mean marginal contributions: row s - 1 holds what each element adds, on
        average, on joining a subsequence of s - 1 elements. None where not requested.
      std_error: (n, C) standard error of `values`; None where exact or not estimable.
      coverage: (n, n) subsequences behind each (scale, element) marginal: the smaller of those
        with the element at that scale and those without it one scale below. None where exact.
      n_evaluations: model (head) evaluations of distinct subsequences behind the result.
      lengths: (B,) elements per sequence in a batch of different lengths, else None.
      within_tolerance: with a tolerance, whether every interval is within it; (B,) in a batch.
      exact: whether every subsequence was evaluated by a deterministic model.
      warnings: conditions that affect the reading of the numbers, a sentence each.
      removal: how a `BlackBox` game removed elements, e.g. "drop"; None for other games.
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
    exact: bool = static_field(default=False)
    warnings: tuple[str, ...] = static_field(default=())
    removal: str | None = static_field(default=None)

    @property
    def n(self) -> int:
        """Elements per sequence (in a batch, padding included)."""
        return self.values.shape[-2]

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return self.values.shape[-1]

    def for_class(self, target: int | Array) -> Array:
        """ESVs (..., n) for class `target`."""
        return self.values[..., self._class(target)]

    def contrast(self, a: int | Array, b: int | Array) -> Array:
        """Class-contrastive ESVs (..., n): for class `a` minus for class `b`.

        Source: Price & Damen (2020), section 3.3; `a` is commonly the true and `b` the predicted
        class.
        """
        return self.for_class(a) - self.for_class(b)

    def supporting(self, target: int | Array) -> Array:
        """Boolean (..., n): elements whose ESV for class `target` is positive."""
        return self.for_class(target) > 0

    def distracting(self, target: int | Array) -> Array:
        """Boolean (..., n): elements whose ESV for class `target` is zero or negative.

        Padding of a batch is neither supporting nor distracting.
        """
        there: Any = True
        if self.lengths is not None:
            there = jnp.arange(self.n)[None, :] < self.lengths[:, None]
        return ~self.supporting(target) & there

    def evidential_score(self, target: int | Array | None = None) -> Array:
        """Evidential score: scores - prior; (..., C), or (...) for class `target`."""
        evidence = self.scores - jnp.broadcast_to(self.prior, jnp.shape(self.scores))
        return evidence if target is None else evidence[..., self._class(target)]

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
        if self.std_error is not None:
            return self.std_error * NormalDist().inv_cdf(0.5 + confidence / 2)
        way_out = "Give the estimator two or more iterations or draws."
        if any("stochastic" in text for text in self.warnings):
            way_out = "Make the model deterministic, or sample (SizeRegression())."
        expect(self.exact, "attribution", "standard errors", "a sampled result without", way_out)
        return jnp.zeros_like(self.values)

    def efficiency_gap(self) -> Array:
        """Sum of the ESVs minus the evidential score, (..., C): zero but for rounding if exact."""
        return self.values.sum(-2) - self.evidential_score()

    @property
    def is_batch(self) -> bool:
        """Return whether there is a leading batch axis."""
        return jnp.ndim(self.values) == 3

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return same_records(self, other) if isinstance(other, Attribution) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __len__(self) -> int:
        """Number of sequences in a batch.

        Raises:
          TypeError: if this is one sequence; its number of elements is `n`.
        """
        if not self.is_batch:
            way_out = "Its number of elements is .n."
            raise TypeError(message("attribution", "a batch to take the length of", "one", way_out))
        return int(self.values.shape[0])

    def __getitem__(self, index: int) -> Attribution:
        """One sequence of a batch, padding removed.

        Raises:
          TypeError: if this is not a batch, or the index is no integer. IndexError: an index
          beyond the batch.
        """
        if not self.is_batch:
            way_out = "Use .values[i], or .for_class(c)[i]."
            raise TypeError(message("attribution", "a batch to index", "one sequence", way_out))
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            got = f"{type(index).__name__} {index!r}"
            raise TypeError(message("index", "an integer", got, "Index sequences one by one."))
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of a batch of {len(self)}.")
        n = self.n if self.lengths is None else int(self.lengths[index])

        def take(leaf: Any, n_trimmed: int = 0) -> Any:
            if leaf is None or jnp.ndim(leaf) == 0:
                return leaf
            return leaf[index][(slice(n),) * n_trimmed]

        return dataclasses.replace(
            self,
            values=take(self.values, 1),
            scores=take(self.scores),
            prior=take(self.prior) if jnp.ndim(self.prior) == 2 else self.prior,
            marginals=take(self.marginals, 2),
            std_error=take(self.std_error, 1),
            coverage=take(self.coverage, 2),
            n_evaluations=take(self.n_evaluations),
            lengths=None,
            within_tolerance=take(self.within_tolerance),
        )

    def to_xarray(self, class_names: tuple[str, ...] | None = None) -> xarray.Dataset:
        """The record of one sequence as a labelled dataset: dimensions scale, element, class.

        `values` are the variable `esv`, as in result files: datasets have a method `values`. Needs
        the `files` extra. Scales are labelled 1..n, elements 0..n-1, classes by name where
        given.
        """
        expect(not self.is_batch, "attribution", "one sequence", "a batch", "Index it first.")
        xarray = require("xarray", "files")
        names: Sequence[Any] = class_names or range(self.n_classes)
        expect(len(names) == self.n_classes, "class_names", f"{self.n_classes} names", len(names))
        variables = {
            "esv": (("element", "class"), self.values),
            "scores": (("class",), self.scores),
            "prior": (("class",), self.prior),
            "marginals": (("scale", "element", "class"), self.marginals),
            "std_error": (("element", "class"), self.std_error),
            "coverage": (("scale", "element"), self.coverage),
        }
        attributes = {"exact": int(self.exact), "n_evaluations": int(self.n_evaluations)}
        scales = np.arange(1, self.n + 1)
        return xarray.Dataset(
            {k: (dims, np.asarray(v)) for k, (dims, v) in variables.items() if v is not None},
            coords={"element": scales - 1, "class": np.array(names), "scale": scales},
            attrs=attributes | ({} if self.removal is None else {"removal": self.removal}),
        )

    def to_dataframe(self, class_names: tuple[str, ...] | None = None) -> pandas.DataFrame:
        """ESVs in long form: one row per element and class. Needs the `files` extra."""
        dataset = self.to_xarray(class_names)
        names = [name for name in ("esv", "std_error") if name in dataset]
        return dataset[names].to_dataframe().reset_index()

    def plot(self, target: int | None = None, **options: Any) -> Any:
        """ESVs of one class of one sequence as a figure: bars, or a line of more than 16 elements.

        Args:
          target: the class; default that of the highest score.
          options: as `plots.plot` takes them, e.g. class_name, title, ax.
        Returns:
          matplotlib's axes; in a notebook, `att.plot().figure` shows itself.
        Raises:
          ImportError: without the `plots` extra. ValueError: a batch, a class out of range.
        """
        return require("esv_jax.plots", "plots").plot(self, target, **options)

    def _repr_html_(self) -> str:
        """HTML for notebooks: the numbers of the top class and bars of its ESVs."""
        return record_html(self)

    def _class(self, target: int | Array) -> Any:
        """Refuse an index that JAX would clamp silently."""
        return expect_classes("class", target, self.n_classes)
