"""The questions asked at the public boundary, in one message form.

Every function raises `ValueError` (shape, value) or `TypeError` (dtype, kind) with the name of
the argument, what was expected, what came, and the way out:

    x: expected shape (n, D), got (8,). For a batch, use explain_batch.

Shapes and dtypes are known while tracing, so those questions are always asked. Questions about
values are asked of concrete arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.links import LINKS


def message(name: str, expected: str, got: object, way_out: str = "") -> str:
    """One line: `name: expected ..., got .... way out`."""
    tail = f" {way_out}" if way_out else ""
    return f"{name}: expected {expected}, got {got}.{tail}"


def is_concrete(value: Any) -> bool:
    """Whether questions about the values of an array may be asked (not while tracing)."""
    return not isinstance(value, jax.core.Tracer)


def expect(
    condition: bool,
    name: str,
    expected: str,
    got: object,
    way_out: str = "",
    kind: Callable[[str], Exception] = ValueError,
) -> None:
    """Raise `kind` with the house message unless `condition` holds."""
    if not condition:
        raise kind(message(name, expected, got, way_out))


def expect_int(name: str, value: Any, minimum: int | None = None, way_out: str = "") -> int:
    """Return `value` as an int; refuse bools, floats and anything below `minimum`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(message(name, "an integer", f"{type(value).__name__} {value!r}", way_out))
    if minimum is not None and value < minimum:
        raise ValueError(message(name, f"an integer >= {minimum}", value, way_out))
    return int(value)


def expect_floating(name: str, value: Any, way_out: str = "") -> jax.Array:
    """Return `value` as a floating-point JAX array; refuse other kinds of numbers."""
    return jnp.asarray(as_array(name, value, way_out))


def as_array(name: str, value: Any, way_out: str = "", integers: bool = False) -> Any:
    """Return `value` as a NumPy array, unless it is JAX's; refuse other than floating point.

    Args:
      integers: whether integers are taken as well.
    """
    if not isinstance(value, np.ndarray | jax.Array):
        try:
            value = as_numpy(value)
        except (TypeError, ValueError):
            raise TypeError(message(name, "an array", type(value).__name__, way_out)) from None
        if value.dtype == object:
            raise TypeError(message(name, "an array of numbers", "a Python object", way_out))
    kinds = (jnp.floating, jnp.integer) if integers else (jnp.floating,)
    if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise TypeError(
            message(name, "a floating-point array", f"dtype {value.dtype}", way_out or "Cast it.")
        )
    return value


def wider(*dtypes: Any) -> Any:
    """The floating dtype that holds all of `dtypes`, at least float32; also under strict rules."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.dtype(jnp.float32)
        for other in dtypes:
            dtype = jnp.promote_types(dtype, other)
    return dtype


def as_numpy(value: Any) -> np.ndarray:
    """NumPy's view of an array of any framework, also of a tensor that records gradients."""
    for step in ("detach", "cpu"):
        if hasattr(value, step) and not isinstance(value, np.ndarray):
            value = getattr(value, step)()
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":  # which NumPy does not have
        value = value.float()
    return np.asarray(value)


def model_output(name: str, value: Any, expected: str, ndim: int) -> Any:
    """The floating-point array in a model's output, with `ndim` axes, the last over classes.

    A dict or an object with `logits` stands for these; one axis fewer is one class.

    Raises:
      TypeError: another kind of output, or not floating point. ValueError: another shape.
    """
    logits = value.get("logits") if isinstance(value, dict) else getattr(value, "logits", None)
    value = value if logits is None else logits
    way_out = "Return the logits alone."
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(message(name, expected, f"a {type(value).__name__}", way_out))
    if value.ndim == ndim - 1:
        value = value[..., None]
    if value.ndim != ndim or value.shape[-1] == 0:
        raise ValueError(message(name, expected, f"shape {tuple(value.shape)}", way_out))
    if isinstance(value, np.ndarray | jax.Array) and not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"dtype {value.dtype}"
        raise TypeError(message(name, f"floating-point {expected}", got, "Cast them to float32."))
    return value


def check_link(link: Any, n_classes: int | None = None) -> None:
    """Refuse an unknown link, and a softmax over one class, which is 1 whatever the logit."""
    expect_choice("link", link, LINKS)
    if link == "softmax" and n_classes == 1:
        got = "one class, whose probability is always 1"
        raise ValueError(message("link", "a softmax over two classes or more", got,
                                 "Use link='sigmoid' (or 'identity') for one output."))  # fmt: skip


def expect_index(name: str, value: Any, size: int) -> Any:
    """Return an integer or an integer array as an index in 0..size - 1; refuse all others.

    Concrete arrays are checked as numbers are, since JAX clamps indices silently; traced ones
    are returned as they are.
    """
    if isinstance(value, np.ndarray | jax.Array):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(message(name, "an integer", f"dtype {value.dtype}"))
        if is_concrete(value):
            wrong = np.asarray(value)[(np.asarray(value) < 0) | (np.asarray(value) >= size)]
            if wrong.size:
                raise ValueError(message(name, f"an index in 0..{size - 1}", wrong.flat[0]))
        return value
    index = expect_int(name, value)
    if not 0 <= index < size:
        raise ValueError(message(name, f"an index in 0..{size - 1}", index))
    return index


def expect_shape(
    name: str, value: Any, shape: tuple[int | None, ...], letters: str, way_out: str = ""
) -> None:
    """Refuse an array whose shape differs from `shape` (None matches any size).

    `letters` is how the expected shape is written in the message, e.g. "(n, D)".
    """
    got = tuple(np.shape(value))
    fits = len(got) == len(shape) and all(
        want is None or have == want for have, want in zip(got, shape, strict=True)
    )
    if not fits:
        raise ValueError(message(name, f"shape {letters}", got, way_out))


def expect_finite(name: str, value: Any, way_out: str = "") -> None:
    """Refuse NaN and infinity, naming the first place. Skipped while tracing."""
    if isinstance(value, jax.core.Tracer):
        return
    bad = ~np.isfinite(np.asarray(value))
    if bad.any():
        place = tuple(int(index) for index in np.argwhere(bad)[0])
        found = np.asarray(value)[place]
        raise ValueError(
            message(
                name,
                "finite values",
                f"{found} at index {place} ({int(bad.sum())} in all)",
                way_out,
            )
        )


def expect_key(name: str, key: Any) -> jax.Array:
    """Return a typed PRNG key of shape (); refuse raw uint32 keys and None with the way out."""
    way_out = "Make one with jax.random.key(seed)."
    if key is None:
        raise ValueError(message(name, "a PRNG key", "None", way_out))
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        described = f"{type(key).__name__}"
        if hasattr(key, "dtype"):
            described = f"an array of dtype {key.dtype} and shape {tuple(key.shape)}"
        raise TypeError(message(name, "a typed PRNG key", described, way_out))
    if key.shape != ():
        raise ValueError(message(name, "one key, shape ()", f"shape {key.shape}", "Index it."))
    return key


def expect_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value outside `choices`, suggesting the nearest."""
    choices = list(choices)
    if value not in choices:
        way_out = nearest(str(value), [str(choice) for choice in choices])
        raise ValueError(
            message(name, "one of " + ", ".join(map(repr, choices)), repr(value), way_out)
        )


def nearest(value: str, choices: Iterable[str]) -> str:
    """`Did you mean 'this'?`, or an empty string where nothing is near."""
    choices = list(choices)
    by_folded = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(value.casefold(), list(by_folded), n=1, cutoff=0.5)
    return f"Did you mean {by_folded[close[0]]!r}?" if close else ""
