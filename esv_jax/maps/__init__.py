"""Attribution maps by the name of a method, and their evaluation by the name of a metric.

    network = load_synthetic_clips()
    clip = network.prepare(frames)
    found = clip_map("lrp", network, clip, target)                      # (t, h, w)
    found = clip_map("smooth_grad", network, clip, target, key=key)     # a random method

`MapSettings` holds settings of the methods, `evaluate` scores methods by metrics. `element_values`
gives values of a sequence's elements by other methods, for comparison with Element Shapley Values.
"""

from esv_jax.maps.elements import element_values
from esv_jax.maps.evaluation import evaluate
from esv_jax.maps.methods import MapSettings, clip_map

__all__ = ["MapSettings", "clip_map", "element_values", "evaluate"]
