"""Models that predict from element features or clips: heads, encoders, training, files.

Importing this package imports none of its modules; they are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esv_jax.extras import lazy

if TYPE_CHECKING:
    from esv_jax.models.clip_model import load_clip_model as load_clip_model
    from esv_jax.models.clip_model import load_synthetic_clips as load_synthetic_clips
    from esv_jax.models.clip_model import save_clip_model as save_clip_model
    from esv_jax.models.evaluation import evaluate as evaluate
    from esv_jax.models.heads import stack_heads as stack_heads
    from esv_jax.models.trained import TrainConfig as TrainConfig
    from esv_jax.models.trained import TrainedModel as TrainedModel
    from esv_jax.models.trained import load_model as load_model
    from esv_jax.models.trained import save_model as save_model
    from esv_jax.models.training import train_heads as train_heads
    from esv_jax.models.training import train_tsn as train_tsn
    from esv_jax.models.video_model import load_synthetic_world as load_synthetic_world
    from esv_jax.models.video_model import load_video_model as load_video_model
    from esv_jax.models.video_model import save_video_model as save_video_model

_NAMES = {
    "clip_model": ("load_clip_model", "load_synthetic_clips", "save_clip_model"),
    "evaluation": ("evaluate",),
    "heads": ("stack_heads",),
    "trained": ("TrainConfig", "TrainedModel", "load_model", "save_model"),
    "training": ("train_heads", "train_tsn"),
    "video_model": ("load_synthetic_world", "load_video_model", "save_video_model"),
}
__getattr__, __dir__, __all__ = lazy(__name__, _NAMES)
