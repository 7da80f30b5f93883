"""Which operations of a trace are layers: a product with a weight, its bias and batch norm."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import wider
from esv_jax.relevance.kinds import KEEPS_ORDER, PRODUCTS, SUMS, is_complex
from esv_jax.relevance.trace import Constant, Operand, Operation, Trace
from esv_jax.strided import is_better_split, split_convolution

_NUMBERS = "dimension_numbers"
_RESHAPES = KEEPS_ORDER - {"convert_element_type", "copy"}


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """Description of a layer from which a composite chooses its rule.

    Attributes:
      index: its place in forward order, from 0. n_layers: how many there are.
      kind: "conv" or "dense".
      name: the modules it stands in, e.g. "TinyCNN/conv1"; "" outside of any.
      input_shape, output_shape: with all axes.
    """

    index: int
    n_layers: int
    kind: str
    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def __str__(self) -> str:
        """E.g. "layer 0 (conv TinyCNN/conv1)"."""
        return f"layer {self.index} ({self.kind} {self.name})".replace(" )", ")")


@dataclasses.dataclass(frozen=True)
class Group:
    """A product or a sum, and the operations after it that belong to the same linear layer.

    Attributes:
      first: the product or sum. x, weight: its operands; weight is None of a sum.
      after: operations on its output, in order: moves, products with constants, added constants.
      input, output: numbers of the values that go in and come out.
      info: None of a sum.
    """

    first: Operation
    x: int
    weight: Operand | None
    after: tuple[Operation, ...]
    output: int
    info: LayerInfo | None = None


def find_groups(trace: Trace, active: set[int], input_shape: tuple[int, ...]) -> dict[int, Group]:
    """The layers and sums of a trace, by the place of their first operation.

    Args:
      trace: the operations. active: numbers of the values through which relevance can pass.
      input_shape: of value 0, the input.
    """
    users: dict[int, list[int]] = {}
    for place, operation in enumerate(trace.operations):
        for operand in set(operation.inputs):
            if isinstance(operand, int):
                users.setdefault(operand, []).append(place)
    makers = {out: op for op in trace.operations for out in op.outputs}
    groups: dict[int, Group] = {}
    for place, operation in enumerate(trace.operations):
        if not operation.shapes or is_complex(operation.shapes[0]):
            continue  # rules share real numbers
        moved = [i for i in operation.inputs if isinstance(i, int) and i in active]
        if is_complex(operation.shapes[0]):
            continue  # rules share real numbers
        if operation.primitive in SUMS and moved:
            weight = None
        elif operation.primitive in PRODUCTS and len(moved) == 1:
            if operation.primitive == "conv_general_dilated" and moved[0] != operation.inputs[0]:
                continue  # the kernel depends on the input
            weight = next(i for i in operation.inputs if i is not moved[0])
            if weight in trace.depends:
                continue  # attention, held constant
        else:
            continue
        after, output = _follow(trace, operation, users, active, makers, weight)
        groups[place] = Group(operation, moved[0], weight, after, output)
    layers = [place for place, group in groups.items() if group.weight is not None]
    for index, place in enumerate(layers):
        group = groups[place]
        info = LayerInfo(
            index=index,
            n_layers=len(layers),
            kind=PRODUCTS[group.first.primitive],
            name=group.first.name,
            input_shape=_sizes(group.x, makers) or input_shape,
            output_shape=group.first.shapes[0].shape,
        )
        groups[place] = dataclasses.replace(group, info=info)
    return groups


def _follow(
    trace: Trace,
    first: Operation,
    users: dict[int, list[int]],
    active: set[int],
    makers: dict[int, Operation],
    weight: Operand | None,
) -> tuple[tuple[Operation, ...], int]:
    """The operations after a product that belong to its layer, and the number they end in."""
    chain: list[Operation] = []
    current = output = first.outputs[0]
    n_kept, has_moved = 0, False
    while current != trace.output and len(users.get(current, [])) == 1:
        operation = trace.operations[users[current][0]]
        others = [i for i in operation.inputs if i != current]
        is_once = len(operation.inputs) - len(others) == 1
        if not is_once or any(_is_active(i, active) for i in others):
            break
        if is_complex(operation.shapes[0]):
            break
        primitive, is_move = operation.primitive, _keeps_order(operation)
        if not is_move and operation.shapes[0].shape != makers[current].shapes[0].shape:
            break
        if primitive == "mul" or (primitive == "div" and operation.inputs[0] == current):
            fits = weight is None or _is_per_channel(others[0], first, weight, makers)
            if not fits or (has_moved and weight is not None):
                break
        elif primitive == "add" or (primitive == "sub" and operation.inputs[0] == current):
            if weight is None:
                break
        elif not is_move:
            break
        chain.append(operation)
        has_moved = has_moved or (is_move and primitive in _RESHAPES)
        current = operation.outputs[0]
        if not is_move:
            n_kept, output = len(chain), current  # moves at the end stand for themselves
    return tuple(chain[:n_kept]), output


def _keeps_order(operation: Operation) -> bool:
    """Return whether an operation moves numbers about, each to one place."""
    if operation.primitive == "broadcast_in_dim":  # new axes, but no copies
        return math.prod(operation.shapes[0].shape) == math.prod(operation.input_shapes[0])
    return operation.primitive in KEEPS_ORDER


def _is_active(operand: Operand, active: set[int]) -> bool:
    return isinstance(operand, int) and operand in active


def _channels(first: Operation, weight_is_first: bool, n_axes: int) -> tuple[int, int] | None:
    """The axis of the outputs that has one place per slice of the weight, and the weight's own.

    None where there is no one such axis. `n_axes` are those of the weight.
    """
    if first.primitive == "conv_general_dilated":
        numbers = first.params["dimension_numbers"]
        return numbers.out_spec[1], numbers.rhs_spec[0]
    contracted, batch = (pair[0 if weight_is_first else 1] for pair in first.params[_NUMBERS])
    free = [axis for axis in range(n_axes) if axis not in contracted]
    if batch or len(free) != 1:
        return None
    return (0 if weight_is_first else len(first.shapes[0].shape) - 1), free[0]


def _is_per_channel(
    operand: Operand, first: Operation, weight: Operand, makers: dict[int, Operation]
) -> bool:
    """Return whether a factor has one number per output channel, so that weights can take it."""
    places: list[int] | None = None  # of the operand's axes among those of the outputs
    while True:
        sizes = _sizes(operand, makers)
        if sizes is None:
            return False
        if all(size == 1 for size in sizes):
            return True
        known = _sizes(weight, makers)
        found = known and _channels(first, first.inputs[0] is weight, len(known))
        places = list(range(len(sizes))) if places is None else places
        if found and all(
            size == 1 or place == found[0] for place, size in zip(places, sizes, strict=True)
        ):
            return True
        maker = None if isinstance(operand, Constant) else makers[operand]
        if maker is None or maker.primitive != "broadcast_in_dim":
            return False
        places = [places[place] for place in maker.params["broadcast_dimensions"]]
        operand = maker.inputs[0]


def _sizes(operand: Operand, makers: dict[int, Operation]) -> tuple[int, ...] | None:
    """The shape of an operand; None of the input."""
    if isinstance(operand, Constant):
        return tuple(np.shape(operand.value))
    return makers[operand].shapes[0].shape if operand in makers else None


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A group with its constants: the linear function it is.

    Attributes:
      x: inputs. weight: with the factors that follow the product; None of a sum.
      bias: like the outputs, or None. out: the outputs.
    """

    group: Group
    x: Array
    weight: Array | None
    bias: Array | None
    out: Array
    factors: tuple[Any, ...]

    def product(self, x: Array, weight: Array | None) -> Array:
        """The outputs without bias, of other inputs and weights."""
        first = self.group.first
        if weight is None:
            (value,) = first.apply(x)
        else:
            value = self._weighted(x, weight)
        for operation, factor in zip(self.group.after, self.factors, strict=True):
            if _keeps_order(operation):
                if operation.primitive != "convert_element_type":
                    (value,) = operation.apply(value)
            elif weight is None and operation.primitive in ("mul", "div"):
                value = value * factor if operation.primitive == "mul" else value / factor
        return value

    def _weighted(self, x: Array, weight: Array) -> Array:
        """The product that the group begins with."""
        first, dtype = self.group.first, self.out.dtype
        if first.primitive == "conv_general_dilated" and is_better_split(first.params):
            return split_convolution(x, weight, first.params, dtype)
        operands = (weight, x) if first.inputs[0] is self.group.weight else (x, weight)
        (value,) = first.apply(*operands, preferred_element_type=dtype)
        return value


def make_linear(group: Group, value: Any) -> Linear:
    """A group with the values at hand, in single precision at least.

    Args:
      group: the layer or sum. value: an operand -> its value.
    """
    x, out = value(group.x), value(group.output)
    dtype = wider(x.dtype, out.dtype)
    weight = None if group.weight is None else jnp.asarray(value(group.weight)).astype(dtype)
    bias: Array | None = None
    factors: list[Any] = []
    current = group.first.outputs[0]
    for operation in group.after:
        primitive, other = operation.primitive, [i for i in operation.inputs if i != current]
        current = operation.outputs[0]
        if _keeps_order(operation):
            bias = None if bias is None else operation.apply(bias)[0].astype(dtype)
            factors.append(None)
            continue
        constant = jnp.asarray(value(other[0])).astype(dtype)
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
    """The weight with a factor per output channel."""
    first = group.first
    if factor.size == 1:
        return weight * factor.reshape(())
    found = _channels(first, first.inputs[0] is group.weight, weight.ndim)
    assert found is not None
    channel, own = found
    channels = jnp.moveaxis(factor, channel, -1)
    channels = channels.reshape(-1, channels.shape[-1])[0]  # alike along the other axes
    return weight * channels.reshape([-1 if axis == own else 1 for axis in range(weight.ndim)])


def layers_of(groups: dict[int, Group]) -> list[LayerInfo]:
    """Return the descriptions of the layers, in forward order."""
    return [group.info for group in groups.values() if group.info is not None]
