"""Models that predict from element features: heads of every scale, average consensus, training.

Nothing here knows of explanations; what is explained are the records `HeadStack` and `TsnHead`.
"""

from esv_jax.models import backbones
from esv_jax.models.clip_model import (
    ClipModel,
    clip_model_digest,
    clip_model_from_state_dict,
    holds_clip_model,
    load_clip_model,
    load_synthetic_clips,
    save_clip_model,
)
from esv_jax.models.clip_networks import (
    C3D,
    CLIP_NETWORKS,
    ClipCNN,
    ClipNetwork,
    R2Plus1D18,
    clip_network_from_state_dict,
    clip_network_to_state_dict,
    recognise_clip_network,
)
from esv_jax.models.config import TrainConfig
from esv_jax.models.evaluation import Evaluation, evaluate
from esv_jax.models.frame_cnn import FrameCNN
from esv_jax.models.frame_encoder import FrameEncoder, register_frame_encoder
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
from esv_jax.models.video_model import (
    VideoModel,
    holds_encoder,
    load_synthetic_world,
    load_video_model,
    save_video_model,
    video_model_digest,
)
from esv_jax.models.weights import load_model, model_digest, save_model

__all__ = [
    "C3D",
    "CLIP_NETWORKS",
    "ClipCNN",
    "ClipModel",
    "ClipNetwork",
    "Evaluation",
    "FrameCNN",
    "FrameEncoder",
    "HeadStack",
    "HiddenLayer",
    "History",
    "MultiScaleHeads",
    "R2Plus1D18",
    "TrainConfig",
    "TrainedModel",
    "Tsn",
    "TsnHead",
    "VideoModel",
    "backbones",
    "clip_model_digest",
    "clip_model_from_state_dict",
    "clip_network_from_state_dict",
    "clip_network_to_state_dict",
    "evaluate",
    "head_logits",
    "holds_clip_model",
    "holds_encoder",
    "load_clip_model",
    "load_model",
    "load_synthetic_clips",
    "load_synthetic_world",
    "load_video_model",
    "model_digest",
    "padded_head_logits",
    "recognise_clip_network",
    "register_frame_encoder",
    "save_clip_model",
    "save_model",
    "save_video_model",
    "scale_logits",
    "stack_heads",
    "train_heads",
    "train_tsn",
    "tsn_logits",
    "unstack_heads",
    "video_model_digest",
]
