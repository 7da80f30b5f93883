"""Image backbones of the paper's models, BN-Inception (TRN) and ResNet-50 (TSN), in evaluation.

    from_state_dict   weights of the public PyTorch models; `to_state_dict`, the inverse
    extractor         preprocessed frames to features; `extract_stream`, many videos in full batches
    save_backbone     one safetensors file; `load_backbone`
    BACKBONES         the architectures with their preprocessing

A file holds the arrays under their public names; its header "esv_jax" holds kind and architecture.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from esv_jax.checks import expect, expect_choice, expect_floating, expect_int, expect_shape, message
from esv_jax.data.preprocessing import TRN_BNINCEPTION, TSN_RESNET50
from esv_jax.files import JSONObject
from esv_jax.models.networks import BNInception, ResNet50
from esv_jax.models.state_dicts import (
    PublishedNetwork,
    last_width,
    plain_names,
    recognise_network,
    to_state_dict,
    variable_shapes,
    variables_from_state,
)
from esv_jax.models.tensor_files import PathLike, TensorFormat, Tensors, Variables, digest_of

__all__ = [
    "BACKBONES",
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

Key = TypeVar("Key")

_SIDE = 224  # pixels, of the images that the published weights were trained on
_N_OUTPUTS = 256  # features per frame of the paper's models
_LAST = "last_linear"
_NAMES = {"last_names": ("fc", "new_fc"), "dropped": ("consensus.", "temporal_module.")}
_FORMAT = TensorFormat("esv_jax", "a backbone written by save_backbone", ("backbone",))


BACKBONES: Mapping[str, PublishedNetwork] = MappingProxyType(
    {
        "bninception": PublishedNetwork(
            BNInception, TRN_BNINCEPTION, "conv1_7x7_s2.weight", _LAST, pooled_dim=1024
        ),
        "resnet50": PublishedNetwork(
            ResNet50, TSN_RESNET50, "layer1.0.conv1.weight", _LAST, pooled_dim=2048
        ),
    }
)
"""Published image backbones by name."""


def build_backbone(
    name: str, n_outputs: int | None = _N_OUTPUTS, dtype: DTypeLike = jnp.float32
) -> nn.Module:
    """The Linen module of a backbone; `init` and `apply` take images (n, 224, 224, 3).

    Args:
      name: "bninception" (the paper's TRN) or "resnet50" (its TSN).
      n_outputs: width of the last layer, 256 in the paper's models; None leaves it out.
      dtype: of the arithmetic, float32 or bfloat16; parameters are float32.
    Raises:
      ValueError: an unknown name, a width below 1, another dtype.
    """
    expect_choice("name", name, BACKBONES)
    if n_outputs is not None:
        n_outputs = expect_int("n_outputs", n_outputs, minimum=1)
    dtype = jnp.dtype(dtype)
    known = dtype in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
    expect(known, "dtype", "float32 or bfloat16", dtype.name)
    return BACKBONES[name].module(n_outputs=n_outputs, dtype=dtype)


# State dicts


def recognise(state: Tensors) -> str:
    """The name of the backbone that a state dict belongs to.

    Raises:
      ValueError: a state dict of another network.
    """
    return recognise_network(state, BACKBONES, **_NAMES)


def from_state_dict(name: str, state: Tensors, *, last_layer: bool = True) -> dict[str, Any]:
    """Linen variables from the weights of a public PyTorch model.

    The last layer is included if the state dict has one, of any width; without it, features are
    the globally pooled channels. Prefixes such as `module.base_model.` are removed, `fc` and
    `new_fc` are read as `last_linear`, `consensus.*` and `temporal_module.*` are left out.

    Args:
      name: of the backbone, as returned by `recognise`.
      state: {name: array} as PyTorch has it; counters of batches may be absent.
      last_layer: whether to include the last layer; False for weights whose last layer classifies
        images, as of ImageNet.
    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays.
    Raises:
      ValueError: unknown or missing names, wrong shapes, values that are not finite; the entries
        are named.
      TypeError: arrays that are not floating-point.
    """
    plain = plain_names(state, **_NAMES)
    of_last = [key for key in plain if key.startswith(f"{_LAST}.")]
    if of_last and last_layer:
        return variables_from_state(_shapes(name, last_width(plain, _LAST) or _N_OUTPUTS), plain)
    pooled = {key: array for key, array in plain.items() if key not in of_last}
    return variables_from_state(_shapes(name, None), pooled)


def _shapes(name: str, n_outputs: int | None) -> Variables:
    return variable_shapes(build_backbone(name, n_outputs), (1, _SIDE, _SIDE, 3))


# Features


def n_features(name: str, variables: Variables) -> int:
    """Features per frame, F: the width of the last layer, or of the pooled channels without it."""
    expect_choice("name", name, BACKBONES)
    return _n_outputs(variables) or BACKBONES[name].pooled_dim


def extractor(
    name: str, variables: Variables, dtype: DTypeLike = jnp.float32
) -> Callable[[Array], Array]:
    """A function from preprocessed frames (n, 224, 224, 3) to features (n, F) float32.

    Features are the outputs of the last layer if `variables` have one (256 in the paper's models,
    before any ReLU), otherwise globally pooled channels (1024 or 2048). The function is pure, and
    compiled once per n.

    Args:
      name: "bninception" or "resnet50".
      variables: of `from_state_dict`, `load_backbone` or the module's `init`.
      dtype: of the arithmetic. bfloat16 changes features by about 0.5 % of the largest.
    Raises:
      ValueError: an unknown name, variables of another architecture; from the function, frames of
        another shape.
      TypeError: from the function, frames that are not floating-point.
    """
    n_outputs = _n_outputs(variables)
    apply = _compiled(name, n_outputs, jnp.dtype(dtype))
    own, given = (
        {"/".join(path): leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree).items()}
        for tree in (_shapes(name, n_outputs), dict(variables))
    )
    wrong = sorted({path for path, _ in own.items() ^ given.items()})
    expect(not wrong, "variables", f"those of {name}", f"others at {', '.join(wrong[:5])}")

    def extract(frames: Array) -> Array:
        frames = expect_floating("frames", frames, "Preprocess them first.")
        letters = f"(n, {_SIDE}, {_SIDE}, 3)"
        expect_shape("frames", frames, (None, _SIDE, _SIDE, 3), letters, "Channels come last.")
        return apply(variables, frames)

    return extract


def _n_outputs(variables: Variables) -> int | None:
    last = variables.get("params", {}).get(_LAST)
    return None if last is None else int(last["bias"].shape[0])


@cache
def _compiled(name: str, n_outputs: int | None, dtype: DTypeLike) -> Callable[..., Array]:
    return jax.jit(build_backbone(name, n_outputs, dtype).apply)


def extract_stream(
    extract: Callable[[Array], Array],
    pieces: Iterable[tuple[Key, np.ndarray]],
    batch_size: int = 32,
) -> Iterator[tuple[Key, np.ndarray]]:
    """Features of a stream of frames, in its order, each piece with the key of its video.

    A video may come in several consecutive pieces. So do its features, not necessarily cut at the
    same positions:

        for uid, parts in itertools.groupby(extract_stream(...), operator.itemgetter(0)):
            features = np.concatenate([part for _, part in parts])  # (n, F)

    Neighbouring videos share batches, so that one program serves all lengths; only the last batch
    is padded with zeros, whose features are dropped. One batch is computed while the next is
    collected.

    Args:
      extract: of `extractor`: frames (B, h, w, 3) -> features (B, F).
      pieces: key and preprocessed frames (k, h, w, 3) of each piece; may be a generator.
      batch_size: frames per batch, B.
    Yields:
      Key and features (k', F) float32.
    Raises:
      ValueError: a piece of another shape than the first, a batch size below 1.
    Cost: memory for two batches and the current piece.
    """
    batch_size = expect_int("batch_size", batch_size, minimum=1)
    frames = _frames(pieces)
    started: tuple[list[Key], Array] | None = None
    while batch := list(itertools.islice(frames, batch_size)):
        padded = np.zeros((batch_size, *batch[0][1].shape), np.float32)
        np.stack([frame for _, frame in batch], out=padded[: len(batch)])
        features = extract(jnp.asarray(padded))  # returns before it is computed
        if started is not None:
            yield from _by_key(*started)
        started = [key for key, _ in batch], features
    if started is not None:
        yield from _by_key(*started)


def _frames(pieces: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, np.ndarray]]:
    shape: tuple[int, ...] | None = None
    for key, frames in pieces:
        shape = frames.shape[1:] if shape is None else shape
        if frames.ndim != 4 or frames.shape[1:] != shape:
            expected = f"shape (k, {', '.join(map(str, shape))}), as before"
            raise ValueError(message(f"frames of {key!r}", expected, frames.shape))
        yield from ((key, frame) for frame in frames)


def _by_key(keys: list[Key], features: Array) -> Iterator[tuple[Key, np.ndarray]]:
    rows = zip(keys, np.asarray(features), strict=False)  # without the padding
    for key, group in itertools.groupby(rows, operator.itemgetter(0)):
        yield key, np.stack([row for _, row in group])


# Files


def save_backbone(path: PathLike, name: str, variables: Variables) -> Path:
    """Write a backbone to one file and return its path; an existing file is replaced atomically.

    The same weights always give the same bytes.

    Args:
      path: the file, e.g. "trn_backbone.safetensors"; its folder is made if absent.
      name: "bninception" or "resnet50".
      variables: its weights, as `extractor` takes them.
    Raises:
      ValueError, OSError: variables of another architecture, a path that cannot be written to.
    """
    extractor(name, variables)  # checks the variables
    state = to_state_dict(variables)
    header = {"kind": "backbone", "architecture": name}
    return _FORMAT.write(path, state, header, digest_of(state))


def load_backbone(path: PathLike) -> tuple[str, dict[str, Any]]:
    """The name and variables of a backbone written by `save_backbone`; runs no code of the file.

    Raises:
      FileNotFoundError: no such file. ValueError: a damaged or foreign file.
    """
    return _FORMAT.read(path, _from_file)


def _from_file(header: JSONObject, state: Tensors) -> tuple[tuple[str, dict[str, Any]], str]:
    name = header["architecture"]
    return (name, from_state_dict(name, state)), digest_of(state)


def backbone_digest(variables: Variables) -> str:
    """SHA-256 of the weights (names, dtypes, shapes, bytes): 64 hexadecimal digits."""
    return digest_of(to_state_dict(variables))
