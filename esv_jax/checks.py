"""Checks of arguments at the public API, with one form of message.

Every function raises `ValueError` (shape, value) or `TypeError` (dtype, kind) with the name of
the argument, what was expected, what came, and the way out:

    x: expected shape (n, D), got (8,). For a batch, use explain_batch.

Shapes and dtypes are available while tracing, so they are always checked. Values are checked for
concrete arrays only.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Protocol, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Link = Literal["softmax", "sigmoid", "identity"]
LINKS: tuple[Link, ...] = get_args(Link)
"""Functions from logits to scores by name; Shapley differences are taken of the scores."""

AnyArray: TypeAlias = jax.Array | np.ndarray
Shaped: TypeAlias = AnyArray | jax.ShapeDtypeStruct
"""An array, or the shape and dtype of one."""


def message(name: str, expected: str, got: object, way_out: str = "") -> str:
    """One line: `name: expected ..., got .... way out`."""
    tail = f" {way_out}" if way_out else ""
    return f"{name}: expected {expected}, got {got}.{tail}"


def is_concrete(value: object) -> bool:
    """Return whether the values of an array are available (not while tracing)."""
    return not isinstance(value, jax.core.Tracer)


def expect(
    condition: bool,
    name: str,
    expected: str,
    got: object,
    way_out: str = "",
    kind: Callable[[str], Exception] = ValueError,
) -> None:
    """Raise `kind` with a `message` unless `condition` holds."""
    if not condition:
        raise kind(message(name, expected, got, way_out))


def expect_int(name: str, value: object, minimum: int | None = None, way_out: str = "") -> int:
    """Return `value` as an int; refuse bools, floats and anything below `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(message(name, "an integer", f"{type(value).__name__} {value!r}", way_out))
    if minimum is not None and value < minimum:
        raise ValueError(message(name, f"an integer >= {minimum}", value, way_out))
    return int(value)


def expect_array(name: str, value: object, way_out: str = "") -> AnyArray:
    """Return `value` as an array of numbers; refuse what is none, e.g. a dict or a ragged list.

    Tensors of other frameworks are converted to NumPy, also those that record gradients.
    """
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return value if isinstance(value, jax.Array) else np.asarray(value)
    got = type(value).__name__
    try:
        value = as_numpy(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(message(name, "an array", got, way_out)) from None
    if value.dtype.kind in "OSU":
        is_dict = got == "dict" or (value.ndim == 0 and isinstance(value[()], Mapping))
        way_out = "Pass one of its arrays; close over the others." if is_dict else way_out
        raise TypeError(message(name, "an array", got, way_out))
    return value


def expect_floating(name: str, value: object, way_out: str = "") -> jax.Array:
    """Return `value` as a floating-point JAX array; refuse other kinds of numbers."""
    array = as_array(name, value, way_out)
    # device_put compiles nothing; jnp.asarray compiles a program for every shape.
    return array if isinstance(array, jax.Array) else jax.device_put(array)


def as_array(name: str, value: object, way_out: str = "", integers: bool = False) -> AnyArray:
    """Return `value` as a NumPy array, unless it is JAX's, of floats (or `integers`)."""
    if not isinstance(value, jax.Array | np.ndarray):
        value = expect_array(name, value, way_out)
    is_integer = integers and jnp.issubdtype(value.dtype, jnp.integer)
    if not is_integer and not jnp.issubdtype(value.dtype, jnp.floating):
        got, way_out = f"dtype {value.dtype}", way_out or "Cast it."
        raise TypeError(message(name, "a floating-point array", got, way_out))
    return value


def expect_numbers(name: str, value: object, way_out: str = "") -> np.ndarray:
    """Return `value` as a float64 array of NumPy; refuse what holds no numbers."""
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(message(name, "numbers", type(value).__name__, way_out)) from None


def expect_classes(
    name: str,
    value: object,
    n_classes: int | None = None,
    kind: str = "a class",
    each: str = "a class",
) -> AnyArray:
    """Return indices of classes as an integer array; refuse bools, floats and what is no class.

    Args:
      value: one index or several, any shape. Values of a traced array are not checked.
      n_classes: C; None where it is not known yet.
      kind, each: for the messages about the kind of value and about its range.
    """
    try:
        indices = expect_array(name, value)
    except TypeError:
        raise TypeError(message(name, kind, type(value).__name__)) from None
    expect(indices.size > 0, name, kind, "none")
    is_integer = bool(jnp.issubdtype(indices.dtype, jnp.integer))
    expect(is_integer, name, kind, f"dtype {indices.dtype}", kind=TypeError)
    if not is_concrete(indices):
        return indices
    indices = np.asarray(indices)
    most = np.iinfo(np.int32).max  # more would wrap where JAX has no 64 bits
    expect(int(indices.max()) <= most, name, f"{each} in 0..{most}", indices.max())
    if n_classes is not None:
        wrong = dict.fromkeys(indices[(indices < 0) | (indices >= n_classes)].tolist())
        expect(not wrong, name, f"{each} in 0..{n_classes - 1}", ", ".join(map(str, wrong)))
    return indices


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


def check_link(link: object, n_classes: int | None = None) -> None:
    """Refuse an unknown link, and a softmax over one class, which is 1 whatever the logit."""
    expect_choice("link", link, LINKS)
    got = "one class, whose probability is always 1"
    way_out = "Use link='sigmoid' (or 'identity') for one output."
    of_one = link == "softmax" and n_classes == 1
    expect(not of_one, "link", "a softmax over two classes or more", got, way_out)


def expect_shape(
    name: str, value: ArrayLike, shape: tuple[int | None, ...], letters: str, way_out: str = ""
) -> None:
    """Refuse an array whose shape differs from `shape` (None matches any size).

    `letters` is how the expected shape is written in the message, e.g. "(n, D)".
    """
    got = tuple(np.shape(value))
    fits = len(got) == len(shape) and all(
        expected in (None, size) for size, expected in zip(got, shape, strict=True)
    )
    expect(fits, name, f"shape {letters}", got, way_out)


def expect_finite(name: str, value: object, way_out: str = "") -> None:
    """Refuse NaN and infinity, naming the first place. Skipped while tracing."""
    if isinstance(value, jax.core.Tracer):
        return
    bad = ~np.isfinite(np.asarray(value))
    if bad.any():
        place = tuple(np.argwhere(bad)[0].tolist())
        got = f"{np.asarray(value)[place]} at index {place} ({int(bad.sum())} in all)"
        raise ValueError(message(name, "finite values", got, way_out))


def expect_key(name: str, key: Any) -> jax.Array:
    """Return a typed PRNG key of shape (); refuse raw uint32 keys and None with the way out."""
    way_out = "Make one with jax.random.key(seed)."
    if key is None:
        raise ValueError(message(name, "a PRNG key", "None", way_out))
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        got = type(key).__name__
        if hasattr(key, "dtype"):
            got = f"an array of dtype {key.dtype} and shape {tuple(key.shape)}"
        raise TypeError(message(name, "a typed PRNG key", got, way_out))
    expect(key.shape == (), name, "one key, shape ()", f"shape {key.shape}", "Index it.")
    return key


def expect_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a value outside `choices`, suggesting the nearest."""
    choices = list(choices)
    if value not in choices:
        expected, way_out = ", ".join(map(repr, choices)), nearest(str(value), map(str, choices))
        raise ValueError(message(name, f"one of {expected}", repr(value), way_out))


class NominalFirst(type(Protocol)):  # type: ignore[misc]
    """Metaclass of protocols for which subclasses are instances at once.

    Python 3.11 compares all members of a protocol first, which takes 20 microseconds.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        return cls in type(instance).__mro__ or super().__instancecheck__(instance)


def first_few(names: Iterable[str], most: int = 3) -> str:
    """The first names, and the number of the others, for a message."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(value: str, choices: Iterable[str]) -> str:
    """`Did you mean 'this'?`, or an empty string where nothing is near."""
    by_folded = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(value.casefold(), list(by_folded), n=1, cutoff=0.5)
    return f"Did you mean {by_folded[close[0]]!r}?" if close else ""


def class_scores(
    output: Any, n_inputs: int | None = None, what: str = "scores", name: str = "fn"
) -> Any:
    """The class scores in what a model returned: (C,) of one input, (B, C) of a batch.

    Taken are an array, also of another framework; the `logits` of a dict or of an object; and of
    a batch (B,), the scores of a binary model, as one column.

    Args:
      output: as the model returned it; of one input also its `jax.ShapeDtypeStruct`.
      n_inputs: B, or None where the model had one input.
      what: of which kind the scores are, for messages. name: of the model, for messages.
    Raises:
      ValueError: another shape or structure. TypeError: not floating point.
    """
    found = _scores_in(output)
    one = n_inputs is None
    expected = f"{what} of shape (C,)" if one else f"{what} of shape (B, C) from {n_inputs} clips"
    if not _is_array(found):
        got = type(output).__name__
        if isinstance(output, Mapping):
            got = f"{got} with {', '.join(map(repr, output)) or 'no keys'}"
        way_out = "Return the scores alone, e.g. lambda x: fn(x)[0] where they come first."
        raise ValueError(message(name, expected, got, way_out))
    if not isinstance(found, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        found = expect_array(name, found)
    if found.shape == (n_inputs,):
        found = found[:, None]
    way_out = "fn takes one input; batch with jax.vmap." if one else ""
    way_out = "Return a single score as an array (1,)." if found.shape == () and one else way_out
    *leading, c = found.shape or (0,)
    fits = c > 0 and leading == ([] if one else [n_inputs])
    expect(fits, name, expected, f"shape {tuple(found.shape)}", way_out)
    is_float = bool(jnp.issubdtype(found.dtype, jnp.floating))
    expect(is_float, name, f"floating-point {what}", f"dtype {found.dtype}", kind=TypeError)
    return found


def _scores_in(output: Any) -> Any:
    """The output itself, or its `logits`."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    return output if _is_array(output) else getattr(output, "logits", output)


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


_UNTRACEABLE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)


@dataclasses.dataclass(frozen=True)
class ScoresOf:
    """A model as a function from an input, or from a batch of them, to its `class_scores`.

    A model is a function of one input to logits (C,), a function of a batch to probabilities
    (B, C), or an object with a method `logits` of the first kind. A function of the other kind is
    used where it fails as given: a batch function on a batch of one; a function of one input by
    `jax.vmap`, with a softmax. A function in JAX is one of a batch only if the number of its
    outputs follows the size of the batch, which costs one more trace. Records of one model are
    equal: programs are compiled once per model.

    Attributes:
      fn: the model. inputs: argument of `__call__`, "x" for one input and "clips" for a batch.
      what: kind of the scores, for messages.
      is_single: fn is the `logits` of an object.
      batched: shapes and dtypes of inputs for which fn is known to take batches.
    Raises:
      TypeError: fn is neither a function nor an object with `logits`.
    """

    fn: Callable[[Any], Any]
    inputs: str = "x"
    what: str = "scores"
    is_single: bool = dataclasses.field(default=False, init=False)
    batched: set[Any] = dataclasses.field(
        default_factory=set, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        logits = getattr(self.fn, "logits", None)
        if callable(logits):
            object.__setattr__(self, "fn", logits)
            object.__setattr__(self, "is_single", True)
        if not callable(self.fn):
            expected = f"a function of {self.inputs}, or an object with .logits"
            raise TypeError(message("fn", expected, type(self.fn).__name__))

    def __call__(self, x: Any) -> Any:
        """Scores (C,), or (B, C) of a batch."""
        if self.inputs == "x":
            first, second = self._of_one, None if self.is_single else self._of_batch_of_one
        elif self.is_single:
            first, second = self._of_each, None
        else:
            first, second = self._of_batch, self._of_each
        try:
            return first(x)
        except FloatingPointError:  # of jax_debug_nans
            raise
        except Exception as error:
            if second is None:
                raise
            with contextlib.suppress(Exception):
                return second(x)
            raise error

    def _of_one(self, x: Any) -> Any:
        return class_scores(self.fn(x), None, self.what)

    def _of_batch(self, x: Any) -> Any:
        scores = class_scores(self.fn(x), len(x), self.what)
        kind = (x.shape[1:], x.dtype)
        if kind not in self.batched:
            n = len(x) + 1
            rows = self._n_outputs(jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype))
            expect(rows in (None, n), "fn", f"{self.what} of {n} clips", f"{rows} rows")
            self.batched.add(kind)
        return scores

    def _n_outputs(self, clips: jax.ShapeDtypeStruct) -> int | None:
        """Length of the first axis of the scores; None for functions that cannot be traced."""
        shapes: list[tuple[int, ...]] = []
        with contextlib.suppress(Exception):
            jax.eval_shape(lambda x: shapes.append(_scores_in(self.fn(x)).shape), clips)
        return shapes[0][0] if shapes and shapes[0] else None

    def _of_batch_of_one(self, x: Any) -> Any:
        return class_scores(self.fn(x[None]), 1, self.what)[0]

    def _of_each(self, x: Any) -> Any:
        logits = jax.vmap(lambda one: class_scores(self.fn(one), None, "logits"))(jnp.asarray(x))
        expect(logits.shape[1] > 1, "fn", "logits of two classes or more", "one class")
        return jax.nn.softmax(logits, axis=-1)

    def traced(self, x: Any, way_out: str = "") -> jax.ShapeDtypeStruct:
        """Shape and dtype of the scores of x, an array or a `jax.ShapeDtypeStruct`, by tracing."""
        with traceable(way_out):
            return jax.eval_shape(self, jax.ShapeDtypeStruct(x.shape, x.dtype))


@contextlib.contextmanager
def traceable(way_out: str = "") -> Iterator[None]:
    """Turn JAX's errors about a function that leaves JAX into one that names the cause."""
    try:
        yield
    except (*_UNTRACEABLE, TypeError, AttributeError) as error:
        # Other frameworks refuse JAX's tracers by their name.
        if not isinstance(error, _UNTRACEABLE) and "Tracer" not in str(error):
            raise
        text = message("fn", "a function in JAX", "one that leaves JAX", way_out)
        raise TypeError(text) from error
