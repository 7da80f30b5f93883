"""Models that predict from element features or clips: heads, encoders, training, files.

Importing this package imports none of its modules; they are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esv_jax.extras import lazy

if TYPE_CHECKING:
    from esv_jax.models import backbones as backbones
    from esv_jax.models.clip_model import C3D as C3D
    from esv_jax.models.clip_model import CLIP_NETWORKS as CLIP_NETWORKS
    from esv_jax.models.clip_model import ClipCNN as ClipCNN
    from esv_jax.models.clip_model import ClipModel as ClipModel
    from esv_jax.models.clip_model import ClipNetwork as ClipNetwork
    from esv_jax.models.clip_model import R2Plus1D18 as R2Plus1D18
    from esv_jax.models.clip_model import clip_model_digest as clip_model_digest
    from esv_jax.models.clip_model import clip_model_from_state_dict as clip_model_from_state_dict
    from esv_jax.models.clip_model import (
        clip_network_from_state_dict as clip_network_from_state_dict,
    )
    from esv_jax.models.clip_model import clip_network_to_state_dict as clip_network_to_state_dict
    from esv_jax.models.clip_model import holds_clip_model as holds_clip_model
    from esv_jax.models.clip_model import load_clip_model as load_clip_model
    from esv_jax.models.clip_model import load_synthetic_clips as load_synthetic_clips
    from esv_jax.models.clip_model import recognise_clip_network as recognise_clip_network
    from esv_jax.models.clip_model import save_clip_model as save_clip_model
    from esv_jax.models.evaluation import Evaluation as Evaluation
    from esv_jax.models.evaluation import evaluate as evaluate
    from esv_jax.models.frame_encoder import FrameCNN as FrameCNN
    from esv_jax.models.frame_encoder import FrameEncoder as FrameEncoder
    from esv_jax.models.frame_encoder import register_frame_encoder as register_frame_encoder
    from esv_jax.models.heads import HeadStack as HeadStack
    from esv_jax.models.heads import HiddenLayer as HiddenLayer
    from esv_jax.models.heads import TsnHead as TsnHead
    from esv_jax.models.heads import head_logits as head_logits
    from esv_jax.models.heads import padded_head_logits as padded_head_logits
    from esv_jax.models.heads import scale_logits as scale_logits
    from esv_jax.models.heads import stack_heads as stack_heads
    from esv_jax.models.heads import tsn_logits as tsn_logits
    from esv_jax.models.heads import unstack_heads as unstack_heads
    from esv_jax.models.trainable import MultiScaleHeads as MultiScaleHeads
    from esv_jax.models.trainable import Tsn as Tsn
    from esv_jax.models.trained import History as History
    from esv_jax.models.trained import TrainConfig as TrainConfig
    from esv_jax.models.trained import TrainedModel as TrainedModel
    from esv_jax.models.trained import load_model as load_model
    from esv_jax.models.trained import model_digest as model_digest
    from esv_jax.models.trained import save_model as save_model
    from esv_jax.models.training import train_heads as train_heads
    from esv_jax.models.training import train_tsn as train_tsn
    from esv_jax.models.video_model import VideoModel as VideoModel
    from esv_jax.models.video_model import holds_encoder as holds_encoder
    from esv_jax.models.video_model import load_synthetic_world as load_synthetic_world
    from esv_jax.models.video_model import load_video_model as load_video_model
    from esv_jax.models.video_model import save_video_model as save_video_model
    from esv_jax.models.video_model import video_model_digest as video_model_digest

_NAMES = {
    "backbones": (),
    "clip_model": (
        "C3D",
        "CLIP_NETWORKS",
        "ClipCNN",
        "ClipNetwork",
        "R2Plus1D18",
        "clip_network_from_state_dict",
        "clip_network_to_state_dict",
        "recognise_clip_network",
        "ClipModel",
        "clip_model_digest",
        "clip_model_from_state_dict",
        "holds_clip_model",
        "load_clip_model",
        "load_synthetic_clips",
        "save_clip_model",
    ),
    "evaluation": ("Evaluation", "evaluate"),
    "frame_encoder": ("FrameCNN", "FrameEncoder", "register_frame_encoder"),
    "heads": (
        "HeadStack",
        "HiddenLayer",
        "TsnHead",
        "head_logits",
        "padded_head_logits",
        "scale_logits",
        "stack_heads",
        "tsn_logits",
        "unstack_heads",
    ),
    "trainable": ("MultiScaleHeads", "Tsn"),
    "trained": (
        "History",
        "TrainConfig",
        "TrainedModel",
        "load_model",
        "model_digest",
        "save_model",
    ),
    "training": ("train_heads", "train_tsn"),
    "video_model": (
        "VideoModel",
        "holds_encoder",
        "load_synthetic_world",
        "load_video_model",
        "save_video_model",
        "video_model_digest",
    ),
}
__getattr__, __dir__, __all__ = lazy(__name__, _NAMES)
