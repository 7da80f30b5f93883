"""3D networks, which see a whole clip at once: C3D, R(2+1)D-18 and a small one, in evaluation.

    clip_network_from_state_dict   weights of the public PyTorch models
    CLIP_NETWORKS                  what there is, with the preprocessing that belongs to it

Clips are (B, t, h, w, 3), channels last; out come logits (B, C).
"""

from esv_jax.models.clip_networks.c3d import C3D
from esv_jax.models.clip_networks.clip_cnn import ClipCNN
from esv_jax.models.clip_networks.r2plus1d import R2Plus1D18
from esv_jax.models.clip_networks.registry import (
    CLIP_NETWORKS,
    ClipNetwork,
    clip_network_from_state_dict,
    clip_network_to_state_dict,
    recognise_clip_network,
)

__all__ = [
    "C3D",
    "CLIP_NETWORKS",
    "ClipCNN",
    "ClipNetwork",
    "R2Plus1D18",
    "clip_network_from_state_dict",
    "clip_network_to_state_dict",
    "recognise_clip_network",
]
