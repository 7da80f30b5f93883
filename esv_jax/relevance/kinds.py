"""Kinds of primitives, and patterns of operations, as relevance passes through them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Set
from typing import Any

import jax
import jax.numpy as jnp

from esv_jax.relevance.trace import Operand, Operation, Trace

PRODUCTS = {"conv_general_dilated": "conv", "dot_general": "dense"}
"""Linear in each of two operands: a layer, where one of them is a weight."""

SUMS = {"reduce_sum", "reduce_window_sum", "cumsum"}
"""Sums of their one operand: relevance goes to the addends by their share."""

MOVES = {
    *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice"),
    *("dynamic_slice", "gather", "concatenate", "pad", "copy", "copy_p", "convert_element_type"),
    *("reduce_precision", "split", "real", "dynamic_update_slice", "optimization_barrier"),
    *("scatter", "where_taken"),
}
"""Each output is a copy of one input, or nothing: relevance goes back where the copy came from."""

KEEPS_ORDER = {"reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy"}
"""Moves of a layer's outputs that leave each output one number of one place."""

ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "clamp", "abs", "sign", "square"),
    *("integer_pow", "pow", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"),
    *("tanh", "tan", "sin", "cos", "sinh", "cosh", "asin", "acos", "atan", "atan2", "logistic"),
    *("erf", "erfc", "erf_inv", "asinh", "acosh", "atanh", "floor", "ceil", "round", "rem"),
    *("is_finite", "select_n", "stop_gradient", "nextafter", "and", "or", "not", "xor"),
    *("gt", "ge", "lt", "le", "eq", "ne", "convert_element_type", "copy", "reduce_precision"),
    *("lgamma", "digamma", "bessel_i0e", "bessel_i1e", "add_any", "real"),
}
"""Functions of the numbers at one place. Of one value alone they are an activation."""

WINNERS = {
    *("max", "min", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"),
    *("sort", "top_k", "select_n", "select_and_gather_add", "cummax", "cummin", "clamp"),
}
"""Each output is one of the inputs, which one depends on them: the winner takes all."""

_REDUCTIONS = {*SUMS, "reduce_max"}
_PLACED = MOVES | ELEMENTWISE
_ROOTS = {"sqrt", "rsqrt", "cbrt", "pow"}
_SCALED = {"add", "sub", "mul", "div", "neg", "max", "select_n", "convert_element_type"}


@dataclasses.dataclass(frozen=True)
class Softmax:
    """The operations of one softmax.

    Attributes:
      x, output: numbers of its scores and of its weights.
      operations: those between them, in order.
    """

    x: int
    output: int
    operations: tuple[Operation, ...]


class Makers:
    """The operation that makes each value of a trace, and patterns found by following them back.

    Attributes:
      of: operations by the numbers of their outputs. shapes: of all values, with dtype.
      reduced: values that are elementwise functions of sums over axes alone.
      statistics: values that norms divide by: roots of these, moved and scaled.
    """

    def __init__(self, trace: Trace, x: Any) -> None:
        self.trace = trace
        self.of = {out: operation for operation in trace.operations for out in operation.outputs}
        self.shapes = {0: jax.ShapeDtypeStruct(x.shape, x.dtype)}
        self.reduced: set[int] = set()
        self.statistics: set[int] = set()
        for operation in trace.operations:
            self.shapes |= zip(operation.outputs, operation.shapes, strict=True)
            primitive, inner = operation.primitive, self._inner(operation)
            is_sum = primitive in _REDUCTIONS or (primitive == "dot_general" and len(inner) == 2)
            if is_sum or (self.reduced.issuperset(inner) and primitive in _PLACED):
                self.reduced.update(operation.outputs if inner else ())
            is_root = primitive in _ROOTS and self.reduced.issuperset(inner)
            if is_root or (self.statistics.issuperset(inner) and primitive in MOVES | _SCALED):
                self.statistics.update(operation.outputs if inner else ())

    def softmaxes(self) -> dict[int, Softmax]:
        """The softmaxes of the trace, by the number of their output.

        exp(x - max(x)) / sum(exp(x - max(x))), with or without the maximum, with masks by
        constants and with constants in the sum.
        """
        found = {}
        for operation in self.trace.operations:
            for above, below in self._fractions(operation):
                x = self._softmax_of(above, below)
                if x is not None:
                    (output,) = operation.outputs
                    found[output] = Softmax(x, output, tuple(self._between(x, output)))
        return found

    def weights(self, softmaxes: Iterable[int]) -> set[int]:
        """Those softmaxes that are factors of products with other values: attention weights."""
        comes_from = {output: output for output in softmaxes}
        found = set()
        for operation in self.trace.operations:
            inner = self._inner(operation)
            sources = {comes_from[i] for i in inner if i in comes_from}
            if operation.primitive in ("mul", *PRODUCTS) and len(inner) == 2:
                found |= sources
            elif operation.primitive in MOVES | ELEMENTWISE and len(inner) == 1 and sources:
                comes_from |= dict.fromkeys(operation.outputs, sources.pop())
        return found

    def is_normalizer(self, value: Operand) -> bool:
        """True if a divisor is one number for many values: a norm, or a sum over axes."""
        is_sum = value in self.reduced and self._is_spread(value)
        return value in self.statistics or is_sum

    def is_gate(self, value: Operand) -> bool:
        """True if a value is a sigmoid, or one minus a sigmoid, possibly moved."""
        return self._made_by(self._back(value, MOVES | {"sub"}), "logistic") is not None

    def divisor(self, value: Operand) -> Operand | None:
        """The value whose reciprocal this is, possibly moved and scaled; else None."""
        value = self._back(value, MOVES | {"mul"})
        power = self._made_by(value, "integer_pow")
        if power is not None and power.params["y"] == -1:
            return power.inputs[0]
        fraction = self._made_by(value, "div")
        if fraction is None or fraction.inputs[0] in self.trace.depends:
            return None
        return fraction.inputs[1]

    def _fractions(self, operation: Operation) -> Iterator[tuple[Operand, Operand]]:
        """(numerator, denominator) of a quotient, also as a product with a reciprocal."""
        if operation.primitive == "div":
            yield operation.inputs[0], operation.inputs[1]
        elif operation.primitive == "mul":
            a, b = operation.inputs
            for above, other in ((a, b), (b, a)):
                below = self.divisor(other)
                if below is not None:
                    yield above, below

    def _softmax_of(self, above: Operand, below: Operand) -> int | None:
        """The scores if a fraction is a softmax, else None."""
        top = self._back(above, MOVES)
        exp = self._made_by(top, "exp", "exp2")
        total = self._made_by(self._back(below, MOVES | _SCALED), "reduce_sum")
        if exp is None or total is None:
            return None
        if self._back(total.inputs[0], MOVES | _SCALED) != top:
            return None
        (x,) = exp.inputs
        shifted = self._made_by(x, "sub")
        if shifted is not None:
            scores, shift = shifted.inputs
            if self._made_by(self._back(shift, MOVES | ELEMENTWISE), "reduce_max") is not None:
                x = scores
        return x if isinstance(x, int) else None

    def _between(self, x: int, output: int) -> Iterator[Operation]:
        """The operations that make one value of another, in order."""
        needed: dict[int, Operation] = {}
        todo = [output]
        while todo:
            operation = self.of.get(todo.pop())
            if operation is not None and operation.outputs[0] not in needed:
                needed[operation.outputs[0]] = operation
                todo += [i for i in operation.inputs if isinstance(i, int) and i > x]
        follows = {x}
        for _, operation in sorted(needed.items()):
            if follows & set(operation.inputs):
                follows.update(operation.outputs)
                yield operation

    def _is_spread(self, value: Operand) -> bool:
        """True if a value repeats the numbers of another."""
        while (operation := self._made_by(value, *MOVES, *_SCALED)) is not None:
            inner = self._inner(operation)
            if len(inner) != 1:
                return False
            before, after = (
                math.prod(x.shape) for x in (self.shapes[inner[0]], operation.shapes[0])
            )
            if operation.primitive == "broadcast_in_dim" and before < after:
                return True
            value = inner[0]
        return False

    def _made_by(self, value: Operand, *primitives: str) -> Operation | None:
        """The operation that makes a value if it is one of these, else None."""
        operation = self.of.get(value) if isinstance(value, int) else None
        return operation if operation is not None and operation.primitive in primitives else None

    def _inner(self, operation: Operation) -> list[int]:
        """The real or complex operands that depend on the input."""
        return [
            i
            for i in operation.inputs
            if isinstance(i, int) and i in self.trace.depends and is_inexact(self.shapes[i])
        ]

    def _back(self, value: Operand, through: Set[str]) -> Operand:
        """The source of a value, through operations of one value that depends on the input."""
        while (operation := self._made_by(value, *through)) is not None:
            inner = self._inner(operation)
            if len(inner) != 1:
                break
            value = inner[0]
        return value


def is_inexact(value: Any) -> bool:
    """True if an array, or its shape and dtype, holds real or complex numbers."""
    return hasattr(value, "dtype") and bool(jnp.issubdtype(value.dtype, jnp.inexact))


def is_complex(value: Any) -> bool:
    """True if an array, or its shape and dtype, holds complex numbers."""
    return hasattr(value, "dtype") and bool(jnp.issubdtype(value.dtype, jnp.complexfloating))
