"""The estimator that a command explains with, by the name of its option."""

from __future__ import annotations

from typing import Literal

from esv_jax.estimators import Constructive, Exact, Surrogate
from esv_jax.inputs import EstimatorChoice

EstimatorName = Literal["auto", "exact", "surrogate", "constructive"]


def choose_by_name(
    name: EstimatorName, surrogate: Surrogate, constructive: Constructive
) -> EstimatorChoice:
    """The estimator of a name; those that have settings as the caller set them."""
    named: dict[EstimatorName, EstimatorChoice] = {
        "auto": "auto",
        "exact": Exact(),
        "surrogate": surrogate,
        "constructive": constructive,
    }
    return named[name]
