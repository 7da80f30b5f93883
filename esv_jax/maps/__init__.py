"""Attribution maps of clips by the name of a method: where in space and time a prediction lies.

    network = load_synthetic_clips()
    clip = network.prepare(frames)
    found = clip_map("lrp", network, clip, target)                      # (t, h, w)
    found = clip_map("smooth_grad", network, clip, target, key=key)     # a method that draws

`METHODS` lists what there is; `MapSettings` holds what can be chosen. `compiled` gives the
function that all clips of one shape share. `evaluate` judges methods by the metrics in `METRICS`;
`make_judge` does so clip by clip.

`element_values` has other methods' values of a sequence's elements, by the names in
`ELEMENT_METHODS`, to be looked at beside Element Shapley Values.
"""

from esv_jax.maps.elements import ELEMENT_METHODS, element_values
from esv_jax.maps.evaluation import evaluate
from esv_jax.maps.evaluation_record import ClipScores, Evaluation, EvaluationSummary, gathered
from esv_jax.maps.frame_values import esv_x_spatial, freeze
from esv_jax.maps.functions import GRAD_CAM_LAYERS
from esv_jax.maps.judge import Judge, make_judge
from esv_jax.maps.measures import METRICS, Metric
from esv_jax.maps.methods import METHODS, MapMethod, clip_map, compiled
from esv_jax.maps.settings import MapSettings, Network

__all__ = [
    "ELEMENT_METHODS",
    "GRAD_CAM_LAYERS",
    "METHODS",
    "METRICS",
    "ClipScores",
    "Evaluation",
    "EvaluationSummary",
    "Judge",
    "MapMethod",
    "MapSettings",
    "Metric",
    "Network",
    "clip_map",
    "compiled",
    "element_values",
    "esv_x_spatial",
    "evaluate",
    "freeze",
    "gathered",
    "make_judge",
]
