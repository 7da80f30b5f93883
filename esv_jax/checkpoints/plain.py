"""The allow-list of plain Python and NumPy names, each with a constructor of ours.

Arrays are of numbers, booleans or text and always copied out of the file, in native byte order.
Object, structured and date arrays stay `Unknown` records.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from esv_jax.checkpoints.inert import CheckpointError, Unknown, expect
from esv_jax.checkpoints.machine import Budget, Constructor, Draft, Table, as_key

MAX_DIMENSIONS = 32
MAX_SIZE = 2**40

_DTYPE = re.compile(r"[biufc](1|2|4|8|16)|U[1-9]\d{0,6}|\?")
_WRONG_UNICODE = 0x10FFFF + 1


class DTypeDraft(Draft):
    """A dtype; what follows it in the file is the byte order."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.dtype = np.dtype(code)

    def filled(self, state: Any, budget: Budget) -> Any:
        """The dtype, or a record where it has fields."""
        fits = isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")
        expect(fits, budget.name, "the byte order of a dtype", "something else")
        if state[2:5] != (None, None, None):
            return Unknown("numpy", "dtype", (state,))
        return self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class ArrayDraft(Draft):
    """An array whose shape, dtype and bytes follow."""

    def filled(self, state: Any, budget: Budget) -> Any:
        """The array, or a record where its elements are objects."""
        fits = isinstance(state, tuple) and len(state) == 5
        expect(fits, budget.name, "version, shape, dtype, order and bytes of an array", "others")
        _, shape, dtype, column_major, raw = state
        order = "F" if column_major else "C"
        array = array_of(raw, dtype, shape, order, budget)
        return Unknown("numpy", "ndarray", state) if array is None else array


def is_shape(shape: Any) -> bool:
    """Return whether a value is a tuple of sizes that some array could have."""
    return (
        isinstance(shape, tuple)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size <= MAX_SIZE for size in shape)
        and math.prod(max(size, 1) for size in shape) <= MAX_SIZE
    )


def array_of(raw: Any, dtype: Any, shape: Any, order: Any, budget: Budget) -> np.ndarray | None:
    """An array from its bytes; None where the dtype is not of numbers, booleans or text.

    Raises:
      CheckpointError: bytes that are not those of the shape, letters outside Unicode.
    """
    dtype = dtype.dtype if isinstance(dtype, DTypeDraft) else dtype
    if not isinstance(dtype, np.dtype):
        return None
    if isinstance(raw, str):  # bytes as Python 2 wrote them
        budget.take(len(raw))
        raw = raw.encode("latin-1")
    expect(is_shape(shape), budget.name, "the shape of an array", "another value")
    size = math.prod(shape) * dtype.itemsize
    fits = isinstance(raw, bytes | bytearray) and len(raw) == size and order in ("C", "F")
    got = len(raw) if isinstance(raw, bytes | bytearray) else type(raw).__name__
    expect(fits, budget.name, f"{size} bytes of an array {shape} of {dtype}", got)
    budget.take(2 * size)
    if size == 0:
        return np.zeros(shape, dtype.newbyteorder("="))
    is_bool = dtype.kind == "b"  # a stored bool that is neither 0 nor 1 is made one
    flat = np.frombuffer(raw, np.uint8) != 0 if is_bool else np.frombuffer(raw, dtype)
    if dtype.kind == "U":
        letters = flat.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        fits = int(letters.max()) < _WRONG_UNICODE
        expect(fits, budget.name, "letters of Unicode", f"number {letters.max()}")
    return flat.astype(dtype.newbyteorder("=")).reshape(shape, order=order)


def _reconstruct(args: tuple[Any, ...], budget: Budget) -> Any:
    """`_reconstruct(ndarray, (0,), b"b")`: an array to be filled."""
    fits = len(args) == 3 and getattr(args[0], "path", None) == "numpy.ndarray"
    return ArrayDraft() if fits else None


def _from_buffer(args: tuple[Any, ...], budget: Budget) -> Any:
    """`_frombuffer(bytes, dtype, shape, order[, axes])`, with which NumPy writes at protocol 5.

    With order "K", shape is that of the bytes, and the axes are then put in the given order.
    """
    if len(args) == 4 or (len(args) == 5 and args[4] is None):
        return array_of(*args[:4], budget)
    if len(args) != 5 or args[3] != "K":
        return None
    array, axes = array_of(*args[:3], "C", budget), args[4]
    if array is None:
        return None
    fits = isinstance(axes, tuple) and all(type(axis) is int for axis in axes)
    fits = fits and sorted(axes) == list(range(array.ndim))
    expect(fits, budget.name, f"an order of {array.ndim} axes", "another value")
    return array.transpose(axes)


def _dtype(args: tuple[Any, ...], budget: Budget) -> Any:
    """`dtype(code, align, copy)` of a plain code, e.g. "f4"."""
    fits = bool(args) and isinstance(args[0], str) and _DTYPE.fullmatch(args[0])
    try:
        return DTypeDraft(args[0]) if fits else None
    except TypeError as error:  # f1, say
        message = f"{budget.name}: expected a dtype of NumPy, got {args[0]!r}."
        raise CheckpointError(message) from error


def _scalar(args: tuple[Any, ...], budget: Budget) -> Any:
    """`scalar(dtype, bytes)`."""
    array = array_of(args[1], args[0], (), "C", budget) if len(args) == 2 else None
    return None if array is None else array[()]


def _encode(args: tuple[Any, ...], budget: Budget) -> Any:
    """`encode(text, "latin1")`, which is how protocol 2 holds bytes."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        return None
    budget.take(len(args[0]))
    return args[0].encode("latin-1")


def _no_or_one_list(args: tuple[Any, ...], budget: Budget) -> list[Any] | None:
    """The elements that a container is made of: `()`, or `([...],)`; None for other arguments."""
    if not args:
        return []
    if len(args) != 1 or not isinstance(args[0], list | tuple):
        return None
    budget.take(64 * len(args[0]))
    return list(args[0])


def ordered_dict(args: tuple[Any, ...], budget: Budget) -> Any:
    """`OrderedDict()`, or of a list of pairs, as a dict."""
    pairs = _no_or_one_list(args, budget)
    if pairs is None or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        return None
    return {as_key(key): value for key, value in pairs}


def _default_dict(args: tuple[Any, ...], budget: Budget) -> Any:
    """`defaultdict(factory)` as a dict; the factory is left alone."""
    return {} if len(args) <= 1 else None


def _set(args: tuple[Any, ...], budget: Budget) -> Any:
    items = _no_or_one_list(args, budget)
    return None if items is None else set(map(as_key, items))


def _frozenset(args: tuple[Any, ...], budget: Budget) -> Any:
    items = _no_or_one_list(args, budget)
    return None if items is None else frozenset(map(as_key, items))


def to_tuple(args: tuple[Any, ...], budget: Budget) -> Any:
    """`tuple([...])`, and `torch.Size` likewise."""
    items = _no_or_one_list(args, budget)
    return None if items is None else tuple(items)


def _bytes(args: tuple[Any, ...], budget: Budget) -> Any:
    """`bytes()` and `bytearray()`, which is how protocol 2 holds empty ones."""
    return b"" if not args else None


def _complex(args: tuple[Any, ...], budget: Budget) -> Any:
    fits = len(args) == 2 and all(type(part) is float for part in args)
    return complex(*args) if fits else None


def make_table(constructors: dict[tuple[str, str], Any]) -> Table:
    """A table for `interpret` from functions by (module, name); other values stay as they are."""
    return {
        (module, name): Constructor(module, name, value) if callable(value) else value
        for (module, name), value in constructors.items()
    }


PLAIN = make_table(
    {
        ("collections", "OrderedDict"): ordered_dict,
        ("collections", "defaultdict"): _default_dict,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): _dtype,
        **{
            (f"numpy.{core}.{module}", name): call
            for core in ("core", "_core")
            for module, name, call in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _from_buffer),
            )
        },
        **{
            (module, name): call
            for module in ("builtins", "__builtin__")
            for name, call in (
                ("set", _set),
                ("frozenset", _frozenset),
                ("tuple", to_tuple),
                ("bytes", _bytes),
                ("bytearray", _bytes),
                ("complex", _complex),
            )
        },
    }
)
