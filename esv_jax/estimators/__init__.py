"""From a game's scores to Element Shapley Values, exactly or by sampling."""

from esv_jax.estimators.constructive import Constructive
from esv_jax.estimators.exact import Exact, scale_sums
from esv_jax.estimators.protocol import Estimator

__all__ = ["Constructive", "Estimator", "Exact", "scale_sums"]
