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
    if not hasattr(value, "dtype"):
        try:
            value = np.asarray(value)
        except (TypeError, ValueError):
            raise TypeError(message(name, "an array", type(value).__name__, way_out)) from None
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            message(name, "a floating-point array", f"dtype {value.dtype}", way_out or "Cast it.")
        )
    return jnp.asarray(value)


def wider(*dtypes: Any) -> Any:
    """The floating dtype that holds all of `dtypes`, at least float32; also under strict rules."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.dtype(jnp.float32)
        for other in dtypes:
            dtype = jnp.promote_types(dtype, other)
    return dtype


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
    if not is_concrete(value):
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
