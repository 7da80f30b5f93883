"""Models that predict from element features: heads of every scale, average consensus, training.

Nothing here knows of explanations; what is explained are the records `HeadStack` and `TsnHead`.
"""

from esv_jax.models.config import TrainConfig
from esv_jax.models.evaluation import Evaluation, evaluate
from esv_jax.models.heads import (
    HeadStack,
    HiddenLayer,
    head_logits,
    padded_head_logits,
    scale_logits,
    stack_heads,
    unstack_heads,
)
from esv_jax.models.multi_scale import MultiScaleHeads
from esv_jax.models.trained import History, TrainedModel
from esv_jax.models.training import train_heads, train_tsn
from esv_jax.models.tsn import Tsn, TsnHead, tsn_logits
from esv_jax.models.weights import load_model, model_digest, save_model

__all__ = [
    "Evaluation",
    "HeadStack",
    "HiddenLayer",
    "History",
    "MultiScaleHeads",
    "TrainConfig",
    "TrainedModel",
    "Tsn",
    "TsnHead",
    "evaluate",
    "head_logits",
    "load_model",
    "model_digest",
    "padded_head_logits",
    "save_model",
    "scale_logits",
    "stack_heads",
    "train_heads",
    "train_tsn",
    "tsn_logits",
    "unstack_heads",
]
