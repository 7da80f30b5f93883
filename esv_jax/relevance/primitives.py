"""Classification of primitives and of patterns of operations by the rule that they need."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np

from esv_jax.checks import is_concrete
from esv_jax.relevance.graph import Graph, Operand, Operation

PRODUCTS = {"conv_general_dilated": "conv", "dot_general": "dense"}
"""Linear in each of two operands: a layer, where one of them is a weight."""

SUMS = {"reduce_sum", "reduce_window_sum", "cumsum"}
"""Sums of one operand: each addend gets its share of the relevance."""

MOVES = {
    *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice"),
    *("dynamic_slice", "gather", "concatenate", "pad", "copy", "copy_p", "convert_element_type"),
    *("reduce_precision", "split", "real", "dynamic_update_slice", "optimization_barrier"),
    *("scatter", "where_taken"),
}
"""Each output is a copy of one input, or of none: its relevance goes to that input."""

ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "clamp", "abs", "sign", "square"),
    *("integer_pow", "pow", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"),
    *("tanh", "tan", "sin", "cos", "sinh", "cosh", "asin", "acos", "atan", "atan2", "logistic"),
    *("erf", "erfc", "erf_inv", "asinh", "acosh", "atanh", "floor", "ceil", "round", "rem"),
    *("is_finite", "select_n", "stop_gradient", "nextafter", "and", "or", "not", "xor"),
    *("gt", "ge", "lt", "le", "eq", "ne", "convert_element_type", "copy", "reduce_precision"),
    *("lgamma", "digamma", "bessel_i0e", "bessel_i1e", "add_any", "real"),
}
"""Functions of the numbers at one position. With one source they are an activation."""

WINNERS = {
    *("max", "min", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"),
    *("sort", "top_k", "select_n", "select_and_gather_add", "cummax", "cummin", "clamp"),
}
"""Each output is one of the inputs, which depends on their values: that one gets all relevance."""

_REDUCTIONS = {*SUMS, "reduce_max"}
_ROOTS = {"sqrt", "rsqrt", "cbrt", "pow"}
_SCALED = {"add", "sub", "mul", "div", "neg", "max", "select_n", "convert_element_type"}
_NONNEGATIVE = {"exp", "exp2", "logistic", "abs", "sqrt", "square"}
_KEEP_NONNEGATIVE = MOVES | {
    *("add", "mul", "div", "min", "reduce_sum", "reduce_window_sum", "cumsum"),
    *("reduce_max", "reduce_window_max"),
}


def nonnegative_values(graph: Graph) -> set[int]:
    """Numbers of the values that are >= 0 for every input."""
    found: set[int] = set()

    def is_nonnegative(operand: Operand) -> bool:
        if isinstance(operand, int):
            return operand in found
        if not is_concrete(operand.value) or np.ndim(operand.value) != 0:
            return False
        number = np.asarray(operand.value)
        return bool(np.isrealobj(number) and number >= 0)

    for operation in graph.operations:
        primitive, inputs = operation.primitive, operation.inputs
        if primitive in _KEEP_NONNEGATIVE:
            n_values = {"gather": 1, "dynamic_slice": 1}.get(primitive, len(inputs))  # not indices
            fits = all(map(is_nonnegative, inputs[:n_values]))
        else:
            fits = primitive in _NONNEGATIVE
            fits = fits or (primitive == "max" and any(map(is_nonnegative, inputs)))
        if fits:
            found.update(operation.outputs)
    return found


@dataclasses.dataclass(frozen=True)
class Softmax:
    """The operations of one softmax, in order, from its scores to its weights."""

    x: int
    output: int
    operations: tuple[Operation, ...]


class Patterns:
    """Softmaxes, norms and gates of a graph, found by tracing values back.

    Attributes:
      reduced: values that are elementwise functions of sums over axes alone.
      statistics: values that norms divide by: roots of these, moved and scaled.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.reduced: set[int] = set()
        self.statistics: set[int] = set()
        for operation in graph.operations:
            primitive, sources = operation.primitive, graph.sources(operation)
            if not sources:
                continue
            is_sum = primitive in _REDUCTIONS or (primitive == "dot_general" and len(sources) == 2)
            is_reduced = self.reduced.issuperset(sources)
            if is_sum or (is_reduced and primitive in MOVES | ELEMENTWISE):
                self.reduced.update(operation.outputs)
            is_scaled = self.statistics.issuperset(sources) and primitive in MOVES | _SCALED
            if is_scaled or (is_reduced and primitive in _ROOTS):
                self.statistics.update(operation.outputs)

    def softmaxes(self) -> dict[int, Softmax]:
        """The softmaxes by the number of their output.

        exp(x - max(x)) / sum(exp(x - max(x))), with or without the maximum, with masks by
        constants and with constants in the sum.
        """
        found = {}
        for operation in self.graph.operations:
            for above, below in self._fractions(operation):
                x = self._softmax_scores(above, below)
                if x is not None:
                    (output,) = operation.outputs
                    found[output] = Softmax(x, output, tuple(self._between(x, output)))
        return found

    def attention_weights(self, softmaxes: Iterable[int]) -> set[int]:
        """The softmaxes that are factors of products with other values."""
        comes_from = {output: output for output in softmaxes}
        found = set()
        for operation in self.graph.operations:
            sources = self.graph.sources(operation)
            weights = {comes_from[i] for i in sources if i in comes_from}
            if operation.primitive in ("mul", *PRODUCTS) and len(sources) == 2:
                found |= weights
            elif operation.primitive in MOVES | ELEMENTWISE and len(sources) == 1 and weights:
                comes_from |= dict.fromkeys(operation.outputs, weights.pop())
        return found

    def is_normalizer(self, value: Operand) -> bool:
        """True if a divisor is one number for many values: a norm, or a sum over axes."""
        return value in self.statistics or (value in self.reduced and self._is_repeated(value))

    def is_gate(self, value: Operand) -> bool:
        """True if a value is a sigmoid, or one minus a sigmoid, possibly moved."""
        source = self.graph.trace_back(value, MOVES | {"sub"})
        return self.graph.maker(source, "logistic") is not None

    def divisor(self, value: Operand) -> Operand | None:
        """The value whose reciprocal this is, possibly moved and scaled; else None."""
        value = self.graph.trace_back(value, MOVES | {"mul"})
        power = self.graph.maker(value, "integer_pow")
        if power is not None and power.params["y"] == -1:
            return power.inputs[0]
        fraction = self.graph.maker(value, "div")
        if fraction is None or self.graph.is_dependent(fraction.inputs[0]):
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

    def _softmax_scores(self, above: Operand, below: Operand) -> int | None:
        """The scores if a fraction is a softmax, else None."""
        graph = self.graph
        top = graph.trace_back(above, MOVES)
        exp = graph.maker(top, "exp", "exp2")
        total = graph.maker(graph.trace_back(below, MOVES | _SCALED), "reduce_sum")
        if exp is None or total is None:
            return None
        if graph.trace_back(total.inputs[0], MOVES | _SCALED) != top:
            return None
        (x,) = exp.inputs
        shifted = graph.maker(x, "sub")
        if shifted is not None:
            scores, shift = shifted.inputs
            if graph.maker(graph.trace_back(shift, MOVES | ELEMENTWISE), "reduce_max") is not None:
                x = scores
        return x if isinstance(x, int) else None

    def _between(self, x: int, output: int) -> Iterator[Operation]:
        """The operations on the paths from one value to another, in order."""
        needed: dict[int, Operation] = {}
        todo = [output]
        while todo:
            operation = self.graph.makers.get(todo.pop())
            if operation is not None and operation.outputs[0] not in needed:
                needed[operation.outputs[0]] = operation
                todo += [i for i in operation.inputs if isinstance(i, int) and i > x]
        follows = {x}
        for _, operation in sorted(needed.items()):
            if follows & set(operation.inputs):
                follows.update(operation.outputs)
                yield operation

    def _is_repeated(self, value: Operand) -> bool:
        """True if a value repeats the numbers of another."""
        while (operation := self.graph.maker(value, *MOVES, *_SCALED)) is not None:
            sources = self.graph.sources(operation)
            if len(sources) != 1:
                return False
            (value,) = sources
            before, after = self.graph.shape(value), operation.shapes[0].shape
            if operation.primitive == "broadcast_in_dim" and math.prod(before) < math.prod(after):
                return True
        return False
