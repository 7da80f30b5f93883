"""Tensors of a torch checkpoint: their description in the pickle, and their arrays.

The pickle holds no numbers of a tensor. It names a storage (consecutive elements elsewhere in the
file), an offset, a shape and strides. They are checked when the pickle is read; the numbers are
read on demand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from esv_jax.checkpoints.result_pickles import PLAIN, Args, is_shape, is_text, make_table, to_tuple
from esv_jax.checkpoints.unpickle import (
    Constructor,
    Source,
    Table,
    Unknown,
    Value,
    expect,
    short,
)

_MAX_KEY = 1_024  # characters


@dataclass(frozen=True)
class ElementType:
    """Type of the elements of a storage.

    Attributes:
      name: torch's name, e.g. "bfloat16"; "untyped" for bytes.
      stored: dtype of the bytes, little-endian.
    """

    name: str
    stored: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.stored).itemsize


@dataclass(frozen=True)
class Storage:
    """Consecutive elements outside the pickle.

    Attributes:
      key: its name in the file.
      kind: type of its elements.
      numel: number of elements.
      start, stop: range of elements that tensors may use (legacy files have views of storages).
    """

    key: str
    kind: ElementType
    numel: int
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole storage."""
        return self.numel * self.kind.itemsize


@dataclass(frozen=True)
class Tensor:
    """A dense view of a storage; offset and strides count elements of `kind`."""

    storage: Storage
    kind: ElementType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its array."""
        itemsize = 4 if self.kind.name == "bfloat16" else self.kind.itemsize
        return math.prod(self.shape) * itemsize


def to_array(tensor: Tensor, raw: bytes) -> np.ndarray:
    """The array of a tensor, given all bytes of its storage.

    Returns:
      A new contiguous array in native byte order; bfloat16 becomes float32, without rounding.
    """
    if math.prod(tensor.shape) == 0:
        array = np.zeros(tensor.shape, tensor.kind.stored)
    else:
        itemsize = tensor.kind.itemsize
        flat = np.frombuffer(raw, tensor.kind.stored, len(raw) // itemsize)[tensor.offset :]
        steps = zip(tensor.shape, tensor.strides, strict=True)
        strides = [stride * itemsize if size > 1 else 0 for size, stride in steps]
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
        array = view.astype(view.dtype.newbyteorder("="), order="C")
    if tensor.kind.name == "bfloat16":
        return np.asarray(array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.asarray(array != 0) if tensor.kind.name == "bool" else array


def storage_of(identifier: Value, name: str) -> Storage | Unknown:
    """The storage of a persistent identifier of torch, or a record if its type is unknown.

    Args:
      identifier: ("storage", type, key, location, numel), in legacy files followed by the view
        (key, offset, numel) or None; or ("module", class, ...).
      name: of the file, for messages.
    Raises:
      CheckpointError: any other identifier.
    """
    is_tuple = isinstance(identifier, tuple) and bool(identifier)
    if is_tuple and is_text(identifier[0], "module"):
        fits = len(identifier) > 1 and isinstance(identifier[1], Unknown)
        expect(fits, name, "the class of a module", "another value")
        return identifier[1]
    fits = is_tuple and is_text(identifier[0], "storage") and len(identifier) in (5, 6)
    expect(fits, name, "references to tensor storages", f"another one ({short(identifier)})")
    _, kind, key, _, numel, *views = identifier
    is_key = isinstance(key, str) and len(key) <= _MAX_KEY
    expect(is_key, name, "the key of a storage", short(key))
    expect(_is_count(numel), name, "a storage of 0 elements or more", short(numel))
    if not isinstance(kind, ElementType):
        expect(isinstance(kind, Unknown), name, "the type of a storage", short(kind))
        return Unknown(kind.module, kind.name, identifier)
    start, size = 0, numel
    if views and views[0] is not None:
        view = views[0]
        fits = isinstance(view, tuple) and len(view) == 3 and all(map(_is_count, view[1:]))
        expect(fits, name, "key, offset and size of a view", short(view))
        start, size = view[1:]
        expect(start + size <= numel, name, f"a view within {numel} elements", f"{start}+{size}")
    return Storage(key, kind, numel, start, start + size)


def _is_count(value: Value) -> bool:
    return type(value) is int and value >= 0


def _tensor(args: Args, source: Source, kind: ElementType | None = None) -> Tensor | None:
    """A dense tensor of (storage, offset, shape, strides, ...); None for another storage."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        return None
    storage, offset, shape, strides = args[:4]
    kind = storage.kind if kind is None else kind
    expect(is_shape(shape), source.name, "the shape of a tensor", short(shape))
    fits = isinstance(strides, tuple) and len(strides) == len(shape)
    fits = fits and all(map(_is_count, strides))
    expect(fits, source.name, f"{len(shape)} strides of a tensor, each 0 or more", short(strides))
    expect(_is_count(offset), source.name, "an offset of 0 or more", short(offset))
    fits = storage.kind.name == "untyped" or kind.itemsize == storage.kind.itemsize
    expect(fits, source.name, f"a storage of {kind.name}", f"one of {storage.kind.name}")
    scale = kind.itemsize // storage.kind.itemsize
    last = offset + sum((s - 1) * step for s, step in zip(shape, strides, strict=True) if s > 1)
    first, stop = storage.start // scale, storage.stop // scale
    fits = math.prod(shape) == 0 or first + last < stop
    expected = f"a tensor within the {stop - first} elements of its storage"
    expect(fits, source.name, expected, f"one that reaches element {last}")
    return Tensor(storage, kind, first + offset, shape, strides)


def _rebuild(args: Args, source: Source) -> Tensor | None:
    """`_rebuild_tensor_v2(storage, offset, shape, strides, grad, hooks[, flags])`."""
    is_flagged = len(args) > 6 and bool(args[6])  # conjugated or negated on reading
    return None if is_flagged else _tensor(args, source)


def _rebuild_typed(args: Args, source: Source) -> Tensor | None:
    """`_rebuild_tensor_v3(storage, offset, shape, strides, grad, hooks, dtype[, flags])`."""
    fits = len(args) >= 7 and isinstance(args[6], ElementType) and not any(args[7:8])
    return _tensor(args, source, args[6]) if fits else None


def _parameter(args: Args, source: Source) -> Tensor | None:
    """`_rebuild_parameter(tensor, grad, hooks[, state])`: the tensor."""
    return args[0] if args and isinstance(args[0], Tensor) else None


def _with_attributes(args: Args, source: Source) -> Tensor | None:
    """`_rebuild_from_type_v2(function, type, args, state)`: the tensor, without the state."""
    fits = len(args) == 4 and isinstance(args[0], Constructor) and isinstance(args[2], tuple)
    fits = fits and args[0].call in _TENSOR_FUNCTIONS.values()
    return args[0].call(args[2], source) if fits else None


_TENSOR_FUNCTIONS = {
    "_rebuild_tensor": _rebuild,
    "_rebuild_tensor_v2": _rebuild,
    "_rebuild_tensor_v3": _rebuild_typed,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
}

# Element types with their storage classes
_STORAGES = {
    ElementType("float16", "<f2"): "HalfStorage",
    ElementType("float32", "<f4"): "FloatStorage",
    ElementType("float64", "<f8"): "DoubleStorage",
    ElementType("bfloat16", "<u2"): "BFloat16Storage",
    ElementType("complex64", "<c8"): "ComplexFloatStorage",
    ElementType("complex128", "<c16"): "ComplexDoubleStorage",
    ElementType("int8", "<i1"): "CharStorage",
    ElementType("int16", "<i2"): "ShortStorage",
    ElementType("int32", "<i4"): "IntStorage",
    ElementType("int64", "<i8"): "LongStorage",
    ElementType("uint8", "<u1"): "ByteStorage",
    ElementType("uint16", "<u2"): None,
    ElementType("uint32", "<u4"): None,
    ElementType("uint64", "<u8"): None,
    ElementType("bool", "<u1"): "BoolStorage",
    ElementType("untyped", "<u1"): "UntypedStorage",
}
_NAMES: dict[tuple[str, str], Value] = {
    ("torch", "Size"): to_tuple,
    ("torch._tensor", "_rebuild_from_type_v2"): _with_attributes,
    ("torch.storage", "UntypedStorage"): ElementType("untyped", "<u1"),
    **{("torch._utils", name): call for name, call in _TENSOR_FUNCTIONS.items()},
    **{("torch", kind.name): kind for kind in _STORAGES},
    **{("torch", storage): kind for kind, storage in _STORAGES.items() if storage},
    **{("torch.cuda", storage): kind for kind, storage in _STORAGES.items() if storage},
}
TORCH: Table = {**PLAIN, **make_table(_NAMES)}
