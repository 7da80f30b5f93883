"""The variables of a dataset of explanations: their dimensions and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray

ELEMENT, SCORE, VIDEO = ("video", "element", "class"), ("video", "class"), ("video",)

LAYOUT = {  # name: dimensions, meaning
    "esv": (ELEMENT, "Element Shapley Value: share of score - prior"),
    "std_error": (ELEMENT, "standard error of the ESV"),
    "marginals": (("video", "scale", "element", "class"), "mean marginal contribution at a scale"),
    "scores": (SCORE, "score of the whole sequence"),
    "prior": (SCORE, "score of the empty sequence"),
    "length": (VIDEO, "number of elements"),
    "label": (VIDEO, "true class, -1 where unknown"),
    "prediction": (VIDEO, "class of the highest score"),
    "exact": (VIDEO, "whether every subsequence was evaluated"),
    "n_evaluations": (VIDEO, "model evaluations of distinct subsequences"),
    "efficiency_gap": (VIDEO, "largest |sum of ESVs - (score - prior)| of all classes"),
    "element_index": (("video", "element"), "index in the original sequence, -1 beyond its length"),
    "chosen": (("video", "choice"), "class that a choice stands for, -1 where there is none"),
    "failed": (VIDEO, "whether it could not be explained"),
}

OTHER_METHOD = "other_method"
"""Attribute, its name, of a variable with another method's values, dimensions as of `esv`."""


def other_methods(dataset: xarray.Dataset) -> tuple[str, ...]:
    """Names of the other methods whose values a dataset holds."""
    kept = dataset.data_vars.items()
    return tuple(str(name) for name, variable in kept if OTHER_METHOD in variable.attrs)


PER_CLASS = ("esv", "std_error", "marginals")
"""Variables that a sweep may store for some chosen classes only: `choice` in place of `class`."""


def dimensions(name: str, chosen: bool = False) -> tuple[str, ...]:
    """Dimensions of a variable; of chosen classes where they are not all stored."""
    dims = LAYOUT[name][0]
    if chosen and name in PER_CLASS:
        return (*dims[:-1], "choice")
    return dims
