"""From a game's scores to Element Shapley Values, exactly or by sampling."""

from esv_jax.estimators.constructive import Constructive
from esv_jax.estimators.exact import Exact, scale_sums
from esv_jax.estimators.permutation import PermutationSampling
from esv_jax.estimators.protocol import Estimator
from esv_jax.estimators.size_regression import SizeRegression
from esv_jax.estimators.surrogate import Surrogate
from esv_jax.estimators.surrogate_plan import SurrogatePlan
from esv_jax.games.scoring import GameInfo

__all__ = [
    "Constructive",
    "Estimator",
    "Exact",
    "GameInfo",
    "PermutationSampling",
    "SizeRegression",
    "Surrogate",
    "SurrogatePlan",
    "scale_sums",
]
