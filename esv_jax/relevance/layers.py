"""Linear layers of a graph: a product with a weight, its bias and its batch norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import wider
from esv_jax.relevance.graph import Graph, Operand, Operation, is_complex
from esv_jax.relevance.primitives import PRODUCTS, SUMS
from esv_jax.strided import is_better_split, split_convolution

_RESHAPES = {"reshape", "transpose", "squeeze", "expand_dims"}
_KEEP_ORDER = _RESHAPES | {"convert_element_type", "copy"}
Value: TypeAlias = Callable[[Operand], ArrayLike]
"""An operand -> its value."""


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """Description of a linear layer, from which a composite chooses its rule.

    Attributes:
      index: position in forward order, from 0.
      kind: "conv" or "dense".
      name: path of its module, e.g. "TinyCNN/conv1"; "" without a module.
      input_shape, output_shape: with all axes.
    """

    index: int
    kind: str
    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def __str__(self) -> str:
        """E.g. "layer 0 (conv TinyCNN/conv1)"."""
        return f"layer {self.index} ({self.kind} {self.name})".replace(" )", ")")


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """A product or a sum, with the later operations that belong to the same linear layer.

    Attributes:
      first: the product or sum of x; weight and info are None for a sum.
      after: operations on its output, in order: moves, products with constants, added constants.
      output: number of the value computed last.
    """

    first: Operation
    x: int
    weight: Operand | None
    after: tuple[Operation, ...]
    output: int
    info: LayerInfo | None = None


def find_groups(graph: Graph, active: set[int]) -> dict[int, Group]:
    """The layers and sums of a graph, by the index of their first operation."""
    users: dict[Operand, list[Operation]] = {}
    for operation in graph.operations:
        for operand in set(operation.inputs):
            users.setdefault(operand, []).append(operation)
    groups: dict[int, Group] = {}
    n_layers = 0
    for index, operation in enumerate(graph.operations):
        if operation.primitive not in (*SUMS, *PRODUCTS) or is_complex(operation.shapes[0]):
            continue
        sources = [i for i in operation.inputs if isinstance(i, int) and i in active]
        if len(sources) != 1:
            continue
        (x,), weight, info = sources, None, None
        if operation.primitive in PRODUCTS:
            weight = next(i for i in operation.inputs if i != x)
            is_kernel = operation.primitive == "conv_general_dilated" and x != operation.inputs[0]
            if is_kernel or graph.is_dependent(weight):
                continue
            kind, output_shape = PRODUCTS[operation.primitive], operation.shapes[0].shape
            info = LayerInfo(n_layers, kind, operation.name, graph.shape(x), output_shape)
            n_layers += 1
        after, output = _following(graph, operation, users, active, weight)
        groups[index] = Group(operation, x, weight, after, output, info)
    return groups


def _following(
    graph: Graph,
    first: Operation,
    users: dict[Operand, list[Operation]],
    active: set[int],
    weight: Operand | None,
) -> tuple[tuple[Operation, ...], int]:
    """The operations after a product that belong to its layer, and the value computed last."""
    chain: list[Operation] = []
    current = output = first.outputs[0]
    n_kept, is_reshaped = 0, False
    while current != graph.output and len(users.get(current, [])) == 1:
        (operation,) = users[current]
        primitive, is_move = operation.primitive, _keeps_order(operation)
        others = [i for i in operation.inputs if i != current]
        if len(others) + 1 != len(operation.inputs) or not active.isdisjoint(others):
            break
        same_shape = operation.shapes[0].shape == graph.shape(current)
        if is_complex(operation.shapes[0]) or not (is_move or same_shape):
            break
        is_left = operation.inputs[0] == current
        if primitive == "mul" or (primitive == "div" and is_left):
            if weight is not None and (
                is_reshaped or not _is_per_channel(graph, others[0], first, weight)
            ):
                break
        elif primitive == "add" or (primitive == "sub" and is_left):
            if weight is None:
                break
        elif not is_move:
            break
        chain.append(operation)
        is_reshaped = is_reshaped or primitive in _RESHAPES
        current = operation.outputs[0]
        if not is_move:
            n_kept, output = len(chain), current  # moves at the end are operations of their own
    return tuple(chain[:n_kept]), output


def _keeps_order(operation: Operation) -> bool:
    """True if an operation moves numbers, each to one position."""
    if operation.primitive == "broadcast_in_dim":  # new axes without copies
        return math.prod(operation.shapes[0].shape) == math.prod(operation.input_shapes[0])
    return operation.primitive in _KEEP_ORDER


def _channel_axes(first: Operation, weight: Operand, n_axes: int) -> tuple[int, int] | None:
    """The axis of the output channels in the outputs and in the weight, which has `n_axes`.

    None if there is no such axis, or several.
    """
    if first.primitive == "conv_general_dilated":
        numbers = first.params["dimension_numbers"]
        return numbers.out_spec[1], numbers.rhs_spec[0]
    is_first = first.inputs[0] == weight
    contracted, batch = (pair[0 if is_first else 1] for pair in first.params["dimension_numbers"])
    free = [axis for axis in range(n_axes) if axis not in contracted]
    if batch or len(free) != 1:
        return None
    return (0 if is_first else len(first.shapes[0].shape) - 1), free[0]


def _is_per_channel(graph: Graph, factor: Operand, first: Operation, weight: Operand) -> bool:
    """True if a factor has one number per output channel, so that the weight can include it."""
    found = _channel_axes(first, weight, len(graph.shape(weight)))
    axes = list(range(len(graph.shape(factor))))  # of the factor among those of the outputs
    while True:
        pairs = zip(axes, graph.shape(factor), strict=True)
        if all(size == 1 or (found is not None and axis == found[0]) for axis, size in pairs):
            return True
        maker = graph.maker(factor, "broadcast_in_dim")
        if maker is None:
            return False
        axes = [axes[axis] for axis in maker.params["broadcast_dimensions"]]
        factor = maker.inputs[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """The linear function of a group.

    Attributes:
      weight: with the factors that follow the product; None for a sum. bias: like the outputs.
      factors: constants of the operations after the first, None for moves.
    """

    group: Group
    x: Array
    weight: Array | None
    bias: Array | None
    out: Array
    factors: tuple[Array | None, ...]

    def product(self, x: Array, weight: Array | None) -> Array:
        """The outputs without bias, for other inputs and weights."""
        value = self.group.first.apply(x)[0] if weight is None else self._weighted(x, weight)
        for operation, factor in zip(self.group.after, self.factors, strict=True):
            if factor is None and operation.primitive != "convert_element_type":
                (value,) = operation.apply(value)
            elif factor is not None and weight is None and operation.primitive in ("mul", "div"):
                value = value * factor if operation.primitive == "mul" else value / factor
        return value

    def _weighted(self, x: Array, weight: Array) -> Array:
        """The first operation, for other inputs and weights."""
        first, dtype = self.group.first, self.out.dtype
        if first.primitive == "conv_general_dilated" and is_better_split(first.params):
            return split_convolution(x, weight, first.params, dtype)
        operands = (weight, x) if first.inputs[0] == self.group.weight else (x, weight)
        (value,) = first.apply(*operands, preferred_element_type=dtype)
        return value


def make_linear(group: Group, value: Value) -> Linear:
    """The linear function of a group, in single precision at least."""
    x, out = jnp.asarray(value(group.x)), jnp.asarray(value(group.output))
    dtype = wider(x.dtype, out.dtype)
    weight = None if group.weight is None else jnp.asarray(value(group.weight)).astype(dtype)
    bias: Array | None = None
    factors: list[Array | None] = []
    current = group.first.outputs[0]
    for operation in group.after:
        primitive, others = operation.primitive, [i for i in operation.inputs if i != current]
        current = operation.outputs[0]
        if _keeps_order(operation):
            bias = None if bias is None else operation.apply(bias)[0].astype(dtype)
            factors.append(None)
            continue
        constant = jnp.asarray(value(others[0])).astype(dtype)
        factors.append(constant)
        if primitive in ("mul", "div"):
            factor = constant if primitive == "mul" else 1 / constant
            bias = None if bias is None else bias * factor
            weight = None if weight is None else _scaled(weight, factor, group)
        else:
            added = jnp.broadcast_to(constant, operation.shapes[0].shape)
            added = -added if primitive == "sub" else added
            bias = added if bias is None else bias + added
    return Linear(group, x.astype(dtype), weight, bias, out.astype(dtype), tuple(factors))


def _scaled(weight: Array, factor: Array, group: Group) -> Array:
    """The weight times a factor per output channel."""
    if factor.size == 1:
        return weight * factor.reshape(())
    assert group.weight is not None
    found = _channel_axes(group.first, group.weight, weight.ndim)
    assert found is not None
    channel, own = found
    channels = jnp.moveaxis(factor, channel, -1)
    channels = channels.reshape(-1, channels.shape[-1])[0]  # equal along the other axes
    return weight * channels.reshape([-1 if axis == own else 1 for axis in range(weight.ndim)])
