"""Attribution maps by the name of a method, and their evaluation by the name of a metric.

    network = load_synthetic_clips()
    clip = network.prepare(frames)
    found = clip_map("lrp", network, clip, target)                      # (t, h, w)
    found = clip_map("smooth_grad", network, clip, target, key=key)     # a random method

`METHODS` and `METRICS` list the names, `MapSettings` holds settings of the methods. `evaluate`
scores methods by metrics. `element_values` gives values of a sequence's elements by the methods in
`ELEMENT_METHODS`, for comparison with Element Shapley Values.
"""

from esv_jax.maps.elements import ELEMENT_METHODS, element_values
from esv_jax.maps.evaluation import evaluate
from esv_jax.maps.map_metrics import METRICS
from esv_jax.maps.methods import METHODS, MapSettings, clip_map

__all__ = [
    "ELEMENT_METHODS",
    "METHODS",
    "METRICS",
    "MapSettings",
    "clip_map",
    "element_values",
    "evaluate",
]
