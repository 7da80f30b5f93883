"""Strided convolutions as sums of convolutions without strides, whose transposes are fast on CPU.

The transpose of a strided convolution dilates its input. XLA is slow at that on a CPU: it takes 20
to 300 times as long as the split version, with the same number of multiplications.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core
from jax.typing import DTypeLike

_FEW_CHANNELS = 8  # below this, the phases of the input become channels of one convolution


def split_strides(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same function with its strided convolutions split, for faster gradients on a CPU.

    The gradient of a 3D network with strides takes a tenth to a hundredth of the time.
    Convolutions in loops or in functions with custom derivatives are not split; on other devices
    none is. Values differ by rounding.

    Args:
      fn: one array -> one array, in JAX.
    """
    if jax.default_backend() != "cpu":
        return fn

    def split(x: Array) -> Array:
        closed = jax.make_jaxpr(fn)(x)
        if not _has_strides(closed.jaxpr):
            return fn(x)
        (out,) = _evaluate(closed.jaxpr, closed.consts, [x])
        return out

    return split


_CONVOLUTION = "conv_general_dilated"
_CALLS = ("jit", "pjit")  # the name depends on the version of JAX


def _has_strides(jaxpr: core.Jaxpr) -> bool:
    """Return whether a convolution should be split."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in _CALLS and _has_strides(eqn.params["jaxpr"].jaxpr):
            return True
        if name == _CONVOLUTION and is_better_split(eqn.params):
            return True
    return False


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
    """Evaluate a jaxpr with its strided convolutions split."""
    values: dict[core.Var, Array] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom: core.Var | core.Literal) -> Array:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params["jaxpr"]
            out = _evaluate(inner.jaxpr, inner.consts, operands)
        elif name == _CONVOLUTION and is_better_split(eqn.params):
            x, kernel = operands
            dtype = cast(jax.core.ShapedArray, eqn.outvars[0].aval).dtype
            out = [split_convolution(x, kernel, eqn.params, dtype)]
        else:
            out = _as_function(jaxpr, eqn)(*operands)
        values |= zip(eqn.outvars, out, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _as_function(jaxpr: core.Jaxpr, eqn: core.JaxprEqn) -> Callable[..., list[Array]]:
    """One operation of a jaxpr as a function of its operands."""
    outputs = [core.Var(var.aval) for var in eqn.outvars]  # replaces dropped variables too
    inputs: list[core.Var | core.Literal] = [core.Var(atom.aval) for atom in eqn.invars]
    single = jaxpr.replace(
        constvars=[],
        invars=inputs,
        outvars=outputs,
        eqns=[eqn.replace(invars=inputs, outvars=outputs)],
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(single, []))


def is_better_split(params: Mapping[str, Any]) -> bool:
    """Return whether to use `split_convolution` with these parameters on this device."""
    ones = (*params["lhs_dilation"], *params["rhs_dilation"], params["batch_group_count"])
    strided = any(stride > 1 for stride in params["window_strides"])
    return strided and all(one == 1 for one in ones) and jax.default_backend() == "cpu"


def split_convolution(
    x: Array, kernel: Array, params: Mapping[str, Any], dtype: DTypeLike
) -> Array:
    """The convolution of `lax.conv_general_dilated_p`, split by its strides.

    Positions of x that are one stride apart form a phase. Each phase is convolved with its own part
    of the kernel, without strides.

    Args:
      x, kernel: operands.
      params: parameters of the primitive.
      dtype: of the result.
    """
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    strides = params["window_strides"]
    x = jnp.transpose(x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    kernel = jnp.transpose(kernel, (*numbers.rhs_spec[2:], *numbers.rhs_spec[1::-1]))
    edges = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    windows = kernel.shape[:-2]
    n_out = [
        (n - k) // stride + 1 for n, k, stride in zip(x.shape[1:-1], windows, strides, strict=True)
    ]
    options = {"groups": groups, "precision": params["precision"], "dtype": dtype}
    if x.shape[-1] < _FEW_CHANNELS and groups == 1:
        y = _plain(*_phases_as_channels(x, kernel, strides, n_out), **options)
    else:
        phases = itertools.product(*map(range, map(min, strides, windows)))
        parts = (_plain(*_phase(x, kernel, strides, n_out, p), **options) for p in phases)
        y = functools.reduce(jnp.add, parts)
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(y, [order.index(axis) for axis in range(y.ndim)])


def _phase(
    x: Array, kernel: Array, strides: Sequence[int], n_out: Sequence[int], phase: Sequence[int]
) -> tuple[Array, Array]:
    """Every stride-th position of x and of the kernel from `phase` on."""
    part = kernel[tuple(slice(p, None, stride) for p, stride in zip(phase, strides, strict=True))]
    stop = [
        p + (n + k - 2) * stride + 1
        for p, n, k, stride in zip(phase, n_out, part.shape, strides, strict=False)
    ]
    start, end = (0, *phase, 0), (x.shape[0], *stop, x.shape[-1])
    return lax.slice(x, start, end, (1, *strides, 1)), part


def _phases_as_channels(
    x: Array, kernel: Array, strides: Sequence[int], n_out: Sequence[int]
) -> tuple[Array, Array]:
    """All phases of x as channels; the kernel likewise, padded to multiples of the strides."""
    windows = [-(-k // stride) for k, stride in zip(kernel.shape, strides, strict=False)]
    sizes = [(n + k - 1) * stride for n, k, stride in zip(n_out, windows, strides, strict=True)]
    zero = jnp.zeros((), x.dtype)
    fit = [(0, size - have, 0) for size, have in zip(sizes, x.shape[1:-1], strict=True)]
    x = lax.pad(x, zero, [(0, 0, 0), *fit, (0, 0, 0)])
    whole = [
        (0, k * stride - have, 0)
        for k, stride, have in zip(windows, strides, kernel.shape, strict=False)
    ]
    kernel = lax.pad(kernel, zero.astype(kernel.dtype), [*whole, (0, 0, 0), (0, 0, 0)])
    d, deep = len(strides), math.prod(strides) * x.shape[-1]
    split = [part for size, s in zip(sizes, strides, strict=True) for part in (size // s, s)]
    x = x.reshape(x.shape[0], *split, x.shape[-1])
    x = x.transpose(0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1)
    x = x.reshape(*x.shape[: d + 1], deep)
    split = [part for k, s in zip(windows, strides, strict=True) for part in (k, s)]
    kernel = kernel.reshape(*split, *kernel.shape[-2:])
    kernel = kernel.transpose(*range(0, 2 * d, 2), *range(1, 2 * d, 2), 2 * d, 2 * d + 1)
    return x, kernel.reshape(*kernel.shape[:d], deep, kernel.shape[-1])


def _plain(
    x: Array, kernel: Array, *, groups: int, precision: lax.PrecisionLike, dtype: DTypeLike
) -> Array:
    """A convolution without strides or padding, channels last."""
    d = x.ndim - 2
    axes = tuple(range(1, d + 1))
    numbers = lax.ConvDimensionNumbers((0, d + 1, *axes), (d + 1, d, *range(d)), (0, d + 1, *axes))
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,) * d,
        "VALID",
        dimension_numbers=numbers,
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=dtype,
    )
