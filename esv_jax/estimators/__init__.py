"""From a game's scores to Element Shapley Values, exactly or by sampling."""

from esv_jax.estimators.constructive import Constructive
from esv_jax.estimators.exact import Exact
from esv_jax.estimators.permutation import PermutationSampling
from esv_jax.estimators.protocol import Estimator
from esv_jax.estimators.size_regression import SizeRegression
from esv_jax.estimators.surrogate import Surrogate
from esv_jax.estimators.surrogate_plan import SurrogatePlan

__all__ = [
    "Constructive",
    "Estimator",
    "Exact",
    "PermutationSampling",
    "SizeRegression",
    "Surrogate",
    "SurrogatePlan",
]
