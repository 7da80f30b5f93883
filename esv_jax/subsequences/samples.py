"""Samples of subsequences, scale by scale, and plans that replay given ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import expect, expect_shape
from esv_jax.records import register_record, static_field

Unseen = Literal["skip", "zero"]


@register_record
@dataclasses.dataclass(frozen=True)
class Samples:
    """Subsequences drawn at every scale, padded to one width.

    Attributes:
      member: (n, m, n) bool; `member[s - 1, j]` marks the elements of the j-th subsequence of s
        elements. May have further leading axes.
      valid: (n, m) bool; which rows hold a subsequence, the rest is padding.
      unseen: how a model that combines scales treats a subsequence none of whose parts was
        sampled: "skip" uses its known terms, "zero" takes the missing mean as 0.
      replayed: whether a plan gave them.
    """

    member: Array
    valid: Array
    unseen: Unseen = static_field(default="skip")
    replayed: bool = static_field(default=False)


@register_record
@dataclasses.dataclass(frozen=True)
class SubsequencePlan:
    """Given samples, replayed by `Constructive` in the place of its own draw.

    Attributes:
      samples: `Samples` with a leading axis of iterations: member (iterations, n, m, n), valid
        (iterations, n, m).
    """

    samples: Samples

    @property
    def n(self) -> int:
        """Elements of the sequences that the plan is for."""
        return self.samples.member.shape[-1]

    @property
    def iterations(self) -> int:
        """Independent passes over the scales."""
        return self.samples.member.shape[0]

    @classmethod
    def from_membership(cls, iterations: Sequence[Sequence[Any]]) -> SubsequencePlan:
        """A plan from boolean membership arrays.

        Args:
          iterations: for each iteration, for each scale s = 1..n, a bool array (rows, n) whose
            rows have s elements each, or none: such rows are padding. Numbers of rows may differ.
        Raises:
          ValueError: if there is no iteration, a scale is missing, a row has another number of
            elements than its scale, or shapes disagree.
        """
        expect(len(iterations) > 0, "iterations", "at least one iteration", 0)
        tables = [[np.asarray(rows) for rows in scales] for scales in iterations]
        n = len(tables[0])
        expect(n > 0, "iterations[0]", "one membership array for every scale 1..n", "none")
        width = 1
        for t, scales in enumerate(tables):
            expect(len(scales) == n, f"iterations[{t}]", f"{n} scales as the first", len(scales))
            for s, rows in enumerate(scales, start=1):
                name = f"iterations[{t}][{s - 1}]"
                expect_shape(name, rows, (None, n), f"(rows, n) = (rows, {n})")
                is_bool = rows.dtype == np.bool_
                expect(is_bool, name, "a bool array", f"dtype {rows.dtype}", kind=TypeError)
                for j, count in enumerate(rows.sum(1)):
                    got = f"{count} in row {j}"
                    expect(count in (0, s), name, f"{s} elements in every row", got)
                width = max(width, len(rows))
        member = np.zeros((len(tables), n, width, n), bool)
        valid = np.zeros((len(tables), n, width), bool)
        for t, scales in enumerate(tables):
            for s, rows in enumerate(scales):
                member[t, s, : len(rows)] = rows
                valid[t, s, : len(rows)] = rows.any(1)
        return cls(Samples(jnp.asarray(member), jnp.asarray(valid)))


def flat_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """`jax.random.bits` (uint32) of `shape`, drawn as one axis: compiles several times faster."""
    return jax.random.bits(key, (math.prod(shape),), jnp.uint32).reshape(shape)


def random_orders(key: Array, m: int, n: int) -> Array:
    """m uniform orders of n elements, (m, n) int32; ties among their words have odds of 2**-32."""
    return jnp.argsort(flat_bits(key, (m, n)), axis=1)


def count_distinct(samples: Samples) -> Array:
    """Number () of distinct subsequences among samples with any leading axes.

    Subsequences are told apart by 64-bit sums of per-element words: two different ones are taken
    for the same with probability 2**-64 a pair.
    """
    n = samples.member.shape[-1]
    words = jnp.asarray(np.random.default_rng(0).integers(2**32, size=(n, 2), dtype=np.uint32))
    member, valid = samples.member.reshape(-1, n), samples.valid.reshape(-1)
    left, right = (jnp.where(member, words[None, :, k], 0).sum(1, dtype=jnp.uint32) for k in (0, 1))
    refused, left, right = lax.sort((~valid, left, right), num_keys=3)
    differs = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    first = jnp.ones(1, bool)
    return (jnp.concatenate([first, differs]) & ~refused).sum()
