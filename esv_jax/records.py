"""Frozen records that cross `jit`, `vmap` and `grad`, and still question what users put in."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T", bound=type)


def static_field(**kwargs: Any) -> Any:
    """A dataclass field that is part of the structure: compared by `jit`, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def register_record(cls: T) -> T:
    """Register a frozen dataclass as a pytree that is rebuilt without calling `__init__`.

    `jax.tree_util.register_dataclass` rebuilds through `__init__`, so that `__post_init__` would
    meet JAX's placeholders in the place of arrays; here it meets only what users give.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    static = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static", False)]
    traced = [name for name in names if name not in static]

    def flatten(record: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children = tuple((jax.tree_util.GetAttrKey(k), getattr(record, k)) for k in traced)
        return children, tuple(getattr(record, name) for name in static)

    def unflatten(aux: tuple[Any, ...], children: Any) -> Any:
        record: Any = object.__new__(cls)
        for name, value in (*zip(traced, children, strict=True), *zip(static, aux, strict=True)):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls
