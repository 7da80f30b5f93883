"""Frozen dataclasses that are JAX pytrees: the one record mechanism of the package."""

from __future__ import annotations

import dataclasses
import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T", bound=type)


def static_field(**kwargs: Any) -> Any:
    """A dataclass field that is part of the pytree's structure: compared by `jit`, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def register_record(cls: T) -> T:
    """Register a frozen dataclass as a pytree that is rebuilt without calling `__init__`.

    `jax.tree_util.register_dataclass` rebuilds through `__init__`, so that `__post_init__` would
    check JAX's placeholders as if they were arrays. Here `__post_init__` runs on user input only.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    static = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static", False)]
    traced = [name for name in names if name not in static]

    def flatten(record: object) -> tuple[tuple[tuple[object, Any], ...], tuple[object, ...]]:
        children = tuple((jax.tree_util.GetAttrKey(k), getattr(record, k)) for k in traced)
        return children, tuple(getattr(record, name) for name in static)

    def unflatten(aux: tuple[object, ...], children: Any) -> object:
        record: object = object.__new__(cls)
        for name, value in (*zip(traced, children, strict=True), *zip(static, aux, strict=True)):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


def same_records(one: object, other: object) -> bool:
    """Return whether two records have one structure and equal arrays (NaN equals NaN)."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    same: Any = structure
    if same != other_structure:
        return False
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(leaves, others, strict=True)]
    return all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=np.issubdtype(a.dtype, np.inexact))
        for a, b in pairs
    )


class _WeakFunction:
    """A hashable reference to a function that does not keep it alive.

    Two references are equal where they are to one function; of a bound method where the object
    and the function are. What cannot be referenced weakly is kept.
    """

    def __init__(self, function: Any) -> None:
        bound = inspect.ismethod(function)
        self._function: Any = function.__func__ if bound else None
        owner: Any = function.__self__ if bound else function
        self._hash = hash((id(owner), self._function))
        try:
            self._owner: Callable[[], Any] = weakref.ref(owner)
        except TypeError:
            self._owner = lambda: owner

    def __call__(self) -> tuple[Any, Callable[..., Any]]:
        """The object whose lifetime is that of the function, and the function."""
        owner = self._owner()
        if owner is None:
            raise ReferenceError("The function of this model has been deleted.")
        return owner, owner if self._function is None else types.MethodType(self._function, owner)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _WeakFunction):
            return NotImplemented
        owner = self._owner()
        return owner is not None and owner is other._owner() and self._function == other._function


@jax.tree_util.register_pytree_node_class
class Function:
    """A function with traced arguments, such as a model with its parameters.

    As `jax.tree_util.Partial`, but the pytree's structure refers to the function weakly, so that
    neither `jit` nor any other cache keyed by structures keeps a model alive.
    """

    def __init__(self, function: Any) -> None:
        partial = isinstance(function, jax.tree_util.Partial)
        self.function = function.func if partial else function
        self.args: tuple[Any, ...] = function.args if partial else ()
        self.kwargs: dict[str, Any] = dict(function.keywords) if partial else {}
        self._weak = _WeakFunction(self.function)

    @property
    def owner(self) -> Any:
        """The object whose lifetime is that of the function."""
        return self._weak()[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result; its own arguments come first."""
        return self.function(*self.args, *args, **self.kwargs, **kwargs)

    def tree_flatten(self) -> tuple[tuple[Any, ...], _WeakFunction]:
        """Children and structure."""
        return (self.args, self.kwargs), self._weak

    @classmethod
    def tree_unflatten(cls, weak: _WeakFunction, children: Any) -> Function:
        """The function from children and structure."""
        made: Function = object.__new__(cls)
        made.args, made.kwargs = children
        made._weak = weak
        made.function = weak()[1]
        return made
