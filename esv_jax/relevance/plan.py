"""The plan of a propagation, made before there are values: how relevance passes each operation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import Array

from esv_jax.checks import expect, is_concrete, message
from esv_jax.relevance.kinds import (
    ELEMENTWISE,
    MOVES,
    PRODUCTS,
    WINNERS,
    Makers,
    Softmax,
    is_complex,
    is_inexact,
)
from esv_jax.relevance.layers import Group, LayerInfo, find_groups, layers_of
from esv_jax.relevance.trace import Constant, Operand, Operation, Trace, trace

Attention = Literal["attnlrp", "cplrp"]
Unknown = Literal["error", "gradient"]
How = Literal["function", "sum", "move", "same", "linear", "taylor", "unknown"]


@dataclasses.dataclass(frozen=True)
class Passage:
    """Propagation of relevance through an operation that is no layer.

    Attributes:
      how: "function": by a rule of its own. "sum": by the share of each of two addends. "move":
        back to where the numbers came from. "same": unchanged, number by number. "linear",
        "taylor", "unknown": operand times slope, x_i sum_j (d out_j / d x_i) R_j / stab(out_j),
        where "linear" leaves constant addends out of out_j.
      places: indices of the operands that get relevance.
      share: factor of the relevance that each of them gets.
    """

    how: How
    places: tuple[int, ...]
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layers, activations and passages of a traced function.

    Attributes:
      trace: its operations. makers: how its values are made.
      groups: layers and sums, by the place of their first operation.
      active: numbers of the values through which relevance can reach the input.
      roots: of a value that is a function, place by place, of one other value alone: that value.
      positive: numbers of values that are >= 0 for certain.
      softmaxes: by the number of their output; where there are rules for them.
      passages: by the place of an operation, where relevance can come to it.
    """

    trace: Trace
    makers: Makers
    groups: dict[int, Group]
    active: set[int]
    roots: dict[int, int]
    positive: set[int]
    softmaxes: dict[int, Softmax]
    passages: dict[int, Passage]

    @property
    def layers(self) -> list[LayerInfo]:
        """The linear layers, in forward order."""
        return layers_of(self.groups)

    @property
    def unknown(self) -> dict[str, str]:
        """The primitives without a rule, and where one of each is."""
        found: dict[str, str] = {}
        for place, passage in self.passages.items():
            operation = self.trace.operations[place]
            if passage.how == "unknown":
                where = f" in {operation.name}" if operation.name else ""
                found.setdefault(operation.primitive, where)
        return found

    def is_active(self, operand: Operand) -> bool:
        """True if relevance can pass an operand."""
        return isinstance(operand, int) and operand in self.active


def make_plan(
    fn: Callable[[Array], Array],
    x: Any,
    functions: Sequence[str] = (),
    attention: Attention | None = None,
    unknown: Unknown = "gradient",
    use_bias: bool = False,
) -> Plan:
    """Trace a function and find its layers, activations and passages; nothing is computed.

    Args:
      fn, x: a function, and its input or the input's shape and dtype.
      functions: names of functions that have rules of their own.
      attention: the rules of softmaxes, norms and products of two activations; None: no rules.
      unknown, use_bias: see `lrp`.
    Raises:
      ValueError: a layer without outputs, where the input is too short for the model; an operation
      without a rule, for unknown="error".
    """
    traced = trace(fn, x, functions)
    makers = Makers(traced, x)
    softmaxes = {} if attention is None else makers.softmaxes()
    stopped = makers.weights(softmaxes) if attention == "cplrp" else set()
    active = _find_active(traced, stopped)
    groups = find_groups(traced, active, tuple(x.shape))
    for layer in layers_of(groups):
        got = f"shape {layer.output_shape} from {layer.input_shape}"
        way_out = f"The input of shape {tuple(x.shape)} is too short or too small for the model."
        expect(0 not in layer.output_shape, str(layer), "outputs", got, way_out)
    roots = _find_roots(traced, groups, active, makers, use_bias)
    plan = Plan(traced, makers, groups, active, roots, _find_positive(traced), softmaxes, {})
    plan.passages.update(_find_passages(plan, attention, unknown))
    return plan


def _find_active(traced: Trace, stopped: set[int]) -> set[int]:
    """Values through which relevance can reach the input.

    These depend on the input, other than through `stop_gradient` and the values in `stopped`.
    Integers and truth values are constants, unless they are part of an activation.
    """
    active, source = {0}, {0: 0}
    for operation in traced.operations:
        sources = [i for i in operation.inputs if isinstance(i, int) and i in active]
        if not sources or operation.primitive == "stop_gradient":
            continue
        alone = {source[i] for i in sources}
        is_activation = operation.primitive in ELEMENTWISE and len(alone) == 1
        for out, shape in zip(operation.outputs, operation.shapes, strict=True):
            if out not in stopped and (is_inexact(shape) or is_activation):
                active.add(out)
                source[out] = alone.copy().pop() if is_activation else out
    return active


def _find_roots(
    traced: Trace, groups: Mapping[int, Group], active: set[int], makers: Makers, use_bias: bool
) -> dict[int, int]:
    """Values that are elementwise functions of one other value: its number for each.

    Where biases take their share, a sum with an array of constants is no activation.
    """
    in_group = {id(op) for group in groups.values() for op in (group.first, *group.after)}
    roots: dict[int, int] = {}
    for operation in traced.operations:
        known = operation.primitive in ELEMENTWISE and not operation.function
        if id(operation) in in_group or not known or len(operation.outputs) != 1:
            continue
        sources = {i for i in operation.inputs if isinstance(i, int) and i in active}
        if use_bias and _adds_constants(operation, sources):
            continue
        found = {roots.get(i, i) for i in sources}
        (out,) = operation.outputs
        values = [makers.shapes[i] for i in (*sources, out)]
        is_placed = all(tuple(value.shape) == tuple(values[-1].shape) for value in values)
        if len(found) == 1 and out in active and is_placed and not any(map(is_complex, values)):
            roots[out] = found.pop()
    return roots


def _adds_constants(operation: Operation, sources: set[int]) -> bool:
    """True if an operation adds an array of constants to a value, its only source."""
    is_sum = operation.primitive in ("add", "sub", "add_any") and all(operation.input_shapes)
    return is_sum and len(sources) == 1 and len(set(operation.inputs)) == 2


def _find_passages(plan: Plan, attention: Attention | None, unknown: Unknown) -> dict[int, Passage]:
    """Return the propagation through each operation that relevance reaches."""
    operations = plan.trace.operations
    in_group = {id(op) for group in plan.groups.values() for op in (group.first, *group.after)}
    passages: dict[int, Passage] = {}
    needed: set[Operand] = set()

    def need(operand: Operand) -> None:
        if plan.is_active(operand):
            needed.add(plan.roots.get(operand, operand))  # type: ignore[arg-type]

    need(plan.trace.output)
    for place in reversed(range(len(operations))):
        operation = operations[place]
        if place in plan.groups:
            if plan.groups[place].output in needed:
                need(plan.groups[place].x)
            continue
        if id(operation) in in_group or not needed & set(operation.outputs):
            continue
        if operation.outputs[0] in plan.softmaxes:
            need(plan.softmaxes[operation.outputs[0]].x)
            continue
        passages[place] = _passage(plan, operation, attention, unknown)
        for n in passages[place].places:
            need(operation.inputs[n])
    return passages


def _passage(
    plan: Plan, operation: Operation, attention: Attention | None, unknown: Unknown
) -> Passage:
    """Return the propagation through one operation."""
    primitive, inputs, makers = operation.primitive, operation.inputs, plan.makers
    places = tuple(
        n
        for n, i in enumerate(inputs)
        if plan.is_active(i) and is_inexact(makers.shapes[i])  # type: ignore[index]
    )
    has_two = len(places) == 2
    if not places:
        return Passage("move", ())
    if operation.function:
        return Passage("function", places[:1])
    if primitive in ("add", "sub", "add_any") and has_two:
        return Passage("sum", places)
    if primitive in MOVES | WINNERS:
        return Passage("move", places)
    if primitive == "abs":  # of complex numbers: the length of two parts
        return Passage("taylor", places)
    if primitive in ("mul", "div") and has_two and not is_complex(operation.shapes[0]):
        held = [_is_held(makers, operation, n, attention) for n in (0, 1)]
        if held[0] != held[1]:
            return Passage("same", (held.index(False),))
        if attention is not None:
            return Passage("same", places, 0.5)
    if attention is not None and has_two and primitive in ("mul", "div", *PRODUCTS):
        return Passage("taylor", places, 0.5)
    if attention is not None and primitive == "reduce_prod":
        (before,), (after,) = operation.input_shapes, operation.shapes
        return Passage("taylor", places, math.prod(after.shape) / math.prod(before))
    if _is_linear(operation, places, makers):
        return Passage("linear", places)
    if unknown == "error":
        raise ValueError(_refusal(operation))
    return Passage("unknown", places)


def _is_held(makers: Makers, operation: Operation, place: int, attention: Attention | None) -> bool:
    """True if one of two factors is held constant: the divisor of a norm, or a gate."""
    value = operation.inputs[place]
    if attention is None:
        return makers.is_gate(value) and operation.primitive == "mul"
    if operation.primitive == "div":
        return place == 1 and makers.is_normalizer(value)
    below = makers.divisor(value)
    return value in makers.statistics or (below is not None and makers.is_normalizer(below))


def _is_linear(operation: Operation, places: Sequence[int], makers: Makers) -> bool:
    """True if an operation is linear in the operands at some places together.

    JAX then has a transpose of it.
    """
    inputs, shapes = operation.inputs, makers.shapes
    known = {n: i.value for n, i in enumerate(inputs) if isinstance(i, Constant)}
    others = {n: shapes[i] for n, i in enumerate(inputs) if isinstance(i, int) and n not in places}
    like = [shapes[inputs[n]] for n in places]  # type: ignore[index]
    outputs = [shape for shape in operation.shapes if is_inexact(shape)]

    def transposed(others: dict[int, Any], s: list[Any]) -> Any:
        def run(*moved: Any) -> list[Any]:
            given = known | others | dict(zip(places, moved, strict=True))
            out = operation.apply(*(given[n] for n in range(len(inputs))))
            return [value for value in out if is_inexact(value)]

        return jax.linear_transpose(run, *like)(s)

    try:
        jax.eval_shape(transposed, others, outputs)
    except Exception:  # of another kind for each primitive: it has no transpose
        return False
    return True


def _refusal(operation: Operation) -> str:
    """Names an operation without a rule, and the ways out."""
    primitive = operation.primitive
    where = f" in {operation.name}" if operation.name else ""
    if primitive in ("mul", "div", *PRODUCTS):
        way_out = (
            "It combines two activations, as softmax, norms, attention and gates do: take"
            " composite='attnlrp' or 'cplrp', or for_transformers(composite)."
        )
    elif primitive == "while":
        way_out = "Write the loop with lax.scan, or with lax.fori_loop over Python ints."
    else:
        way_out = "Put it into a function under jax.jit with a rule of its own in functions=."
    got = f"{primitive}{where}, which has none"
    end = "Or take its gradient times its inputs: unknown='gradient'."
    return message("fn", "operations with a rule for relevance", got, f"{way_out} {end}")


def _find_positive(traced: Trace) -> set[int]:
    """Values that are >= 0 for certain, whatever the input."""
    positive: set[int] = set()

    def is_positive(operand: Operand) -> bool:
        if isinstance(operand, int):
            return operand in positive
        known = operand.value
        if not is_concrete(known) or np.ndim(known) != 0:
            return False
        number = np.asarray(known)
        return bool(np.isrealobj(number) and number >= 0)

    for operation in traced.operations:
        primitive, inputs = operation.primitive, operation.inputs
        if primitive == "max":
            fits = any(map(is_positive, inputs))
        elif primitive in ("exp", "exp2", "logistic", "abs", "sqrt", "square"):
            fits = True
        elif primitive in MOVES | {
            *("add", "mul", "div", "min", "reduce_sum", "reduce_window_sum", "cumsum"),
            *("reduce_max", "reduce_window_max"),
        }:
            skip = {"gather": 1, "dynamic_slice": 1}.get(primitive, len(inputs))
            fits = all(map(is_positive, inputs[:skip]))
        else:
            fits = False
        if fits:
            positive.update(operation.outputs)
    return positive
