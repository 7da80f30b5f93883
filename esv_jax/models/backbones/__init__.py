"""Image backbones of the paper's models: BN-Inception (TRN) and ResNet-50 (TSN), in evaluation.

    from_state_dict   weights of the public PyTorch models; `to_state_dict`, the way back
    extractor         preprocessed frames to features; `extract_stream`, many videos in full batches
    save_backbone     one safetensors file; `load_backbone`
    BACKBONES         what there is, with the preprocessing that belongs to it

What a backbone sees are single frames; heads and training know features alone.
"""

from esv_jax.models.backbones.bninception import BNInception
from esv_jax.models.backbones.files import backbone_digest, load_backbone, save_backbone
from esv_jax.models.backbones.registry import (
    BACKBONES,
    Backbone,
    build_backbone,
    extractor,
    from_state_dict,
    n_features,
    recognise,
    to_state_dict,
)
from esv_jax.models.backbones.resnet import ResNet50
from esv_jax.models.backbones.stream import extract_stream

__all__ = [
    "BACKBONES",
    "BNInception",
    "Backbone",
    "ResNet50",
    "backbone_digest",
    "build_backbone",
    "extract_stream",
    "extractor",
    "from_state_dict",
    "load_backbone",
    "n_features",
    "recognise",
    "save_backbone",
    "to_state_dict",
]
