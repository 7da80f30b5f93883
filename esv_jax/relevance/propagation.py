"""Relevance, from the outputs of a traced function back to its input."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, is_concrete, wider
from esv_jax.relevance.kinds import ELEMENTWISE, MOVES, WINNERS
from esv_jax.relevance.layers import Group, LayerInfo, find_groups, layers_of, make_linear
from esv_jax.relevance.rules import Layer, Rule, ZBox, stabilised_ratio
from esv_jax.relevance.trace import Constant, Operand, Operation, Trace, trace

MaxPool = Literal["winner", "proportional"]
FunctionRule = Callable[[Callable[..., Any], Sequence[Any], Array], Any]
"""(function, its operands, relevance of its output) -> relevance of its first operand."""


class RelevanceWarning(UserWarning):
    """A primitive without a rule: its gradient was taken in place of one."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How relevance is passed on, beside the rules of the layers; see `lrp`."""

    use_bias: bool = False
    stabilizer: float = 1e-6
    max_pool: MaxPool = "winner"
    functions: Mapping[str, FunctionRule] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a function before there are values.

    Attributes:
      trace: its operations. groups: layers and sums, by the place of their first operation.
      active: numbers of the values that depend on the input.
      roots: of a value that is a function, place by place, of one other value alone: that value.
      positive: numbers of values that are >= 0 for certain.
    """

    trace: Trace
    groups: dict[int, Group]
    active: set[int]
    roots: dict[int, int]
    positive: set[int]

    @property
    def layers(self) -> list[LayerInfo]:
        """The linear layers, in forward order."""
        return layers_of(self.groups)


def make_plan(fn: Callable[[Array], Array], x: Any, functions: Sequence[str] = ()) -> Plan:
    """Trace a function and find its layers and activations; nothing is computed.

    Raises:
      ValueError: a layer without outputs, where the input is too short for the model.
    """
    traced = trace(fn, x, functions)
    active: set[int] = {0}
    for operation in traced.operations:
        if any(isinstance(i, int) and i in active for i in operation.inputs):
            active.update(operation.outputs)
    groups = find_groups(traced, active, tuple(x.shape))
    for layer in layers_of(groups):
        got = f"shape {layer.output_shape} from {layer.input_shape}"
        way_out = f"The input of shape {tuple(x.shape)} is too short or too small for the model."
        expect(0 not in layer.output_shape, str(layer), "outputs", got, way_out)
    roots = _find_roots(traced, groups, active, x)
    return Plan(traced, groups, active, roots, _find_positive(traced))


def propagate(
    plan: Plan, x: Array, rules: Sequence[Rule], start: Callable[[Array], Array], options: Options
) -> tuple[Array, dict[int, Array]]:
    """Relevance of the input, and of the inputs of each layer by its index.

    Args:
      plan: of the function. x: the input.
      rules: one for each layer.
      start: the function's outputs -> their relevance.
    """
    values = _run(plan.trace, x)

    def value(operand: Operand) -> Any:
        return operand.value if isinstance(operand, Constant) else values[operand]

    output = plan.trace.output
    scores = jnp.asarray(value(output))
    relevance: dict[int, Array] = {}

    def add(operand: Operand, found: Array) -> None:
        if isinstance(operand, int) and operand in plan.active:
            root = plan.roots.get(operand, operand)
            relevance[root] = relevance[root] + found if root in relevance else found

    add(output, start(scores))
    in_group = {id(op) for group in plan.groups.values() for op in (group.first, *group.after)}
    at_layers: dict[int, Array] = {}
    warned: set[str] = set()
    for place in reversed(range(len(plan.trace.operations))):
        operation = plan.trace.operations[place]
        if place in plan.groups:
            group = plan.groups[place]
            if group.output in relevance:
                found = _through_group(plan, group, value, relevance[group.output], rules, options)
                if group.info is not None:
                    at_layers[group.info.index] = found
                add(group.x, found)
            continue
        if id(operation) in in_group or all(out in plan.roots for out in operation.outputs):
            continue  # part of a layer, or of an activation, through which relevance passes
        of_outputs = [relevance.get(out) for out in operation.outputs]
        if any(r is not None for r in of_outputs):
            for operand, found in _through(operation, value, of_outputs, plan, options, warned):
                add(operand, found)
    of_input = relevance.get(0, jnp.zeros_like(x))  # of outputs that do not depend on it
    return of_input, at_layers


def _run(traced: Trace, x: Array) -> dict[int, Any]:
    """Every value of a trace."""
    values: dict[int, Any] = {0: x}
    for operation in traced.operations:
        operands = [i.value if isinstance(i, Constant) else values[i] for i in operation.inputs]
        values |= zip(operation.outputs, operation.apply(*operands), strict=True)
    return values


def _through_group(
    plan: Plan,
    group: Group,
    value: Callable[[Operand], Any],
    relevance: Array,
    rules: Sequence[Rule],
    options: Options,
) -> Array:
    """Relevance of a layer's or a sum's input."""
    linear = make_linear(group, value)
    relevance = relevance.astype(linear.out.dtype)
    if group.info is None:
        s = stabilised_ratio(relevance, linear.out, options.stabilizer)
        like_x = jax.ShapeDtypeStruct(linear.x.shape, linear.x.dtype)
        back = jax.linear_transpose(lambda x: linear.product(x, None), like_x)
        return linear.x * back(s)[0]
    info, rule = group.info, rules[group.info.index]
    _expect_finite(info, linear.out)
    assert linear.weight is not None
    low = high = None
    if isinstance(rule, ZBox):
        low, high = _box(plan, group, value, rule, info)
    layer = Layer(
        name=str(info),
        kind=info.kind,
        x=linear.x,
        weight=linear.weight,
        product=linear.product,
        out=linear.out,
        bias=linear.bias,
        use_bias=options.use_bias,
        stabilizer=options.stabilizer,
        is_positive=group.x in plan.positive,
        low=low,
        high=high,
    )
    found = rule(layer, relevance)
    got = f"shape {jnp.shape(found)}"
    fits = jnp.shape(found) == linear.x.shape
    expect(fits, f"{rule} at {info}", f"relevance of shape {linear.x.shape}", got)
    return found


def _box(
    plan: Plan, group: Group, value: Callable[[Operand], Any], rule: ZBox, info: LayerInfo
) -> tuple[Array, Array]:
    """The bounds of a first layer's inputs, from those of the function's input."""
    needed, todo = set(), {group.x}
    for operation in reversed(plan.trace.operations):
        if todo & set(operation.outputs):
            is_known = operation.primitive in MOVES | ELEMENTWISE
            way_out = "Take another rule there, or give ZBox to the first layer."
            got = f"{info} behind {operation.primitive}"
            expect(is_known, "ZBox", "a first layer", got, way_out)
            needed.add(id(operation))
            todo |= {i for i in operation.inputs if isinstance(i, int)} & plan.active
    x = value(0)
    bounds = []
    for name, bound in (("low", rule.low), ("high", rule.high)):
        array = jnp.asarray(bound, dtype=x.dtype)
        try:
            array = jnp.broadcast_to(
                array.reshape((1,) * (x.ndim - array.ndim) + array.shape), x.shape
            )
        except ValueError:
            array_shape = tuple(np.shape(bound))
            expect(False, f"ZBox.{name}", f"a bound that fits {x.shape}", f"shape {array_shape}")
        bounds.append(array)
    if all(map(is_concrete, (x, *bounds))):
        outside = np.asarray((x < bounds[0]) | (x > bounds[1]))
        got = f"{outside.sum()} of {outside.size} numbers outside, {x.min()}..{x.max()} in all"
        way_out = "Give the bounds of the input of the function."
        expect(not outside.any(), f"ZBox at {info}", "an input within low..high", got, way_out)
    ends = []
    for bound in bounds:
        known: dict[int, Any] = {0: bound}
        for operation in plan.trace.operations:
            if id(operation) in needed:
                operands = [known[i] if i in known else value(i) for i in operation.inputs]
                known |= zip(operation.outputs, operation.apply(*operands), strict=True)
        ends.append(known[group.x].astype(wider(known[group.x].dtype)))
    return jnp.minimum(*ends), jnp.maximum(*ends)


def _through(
    operation: Operation,
    value: Callable[[Operand], Any],
    relevance: Sequence[Array | None],
    plan: Plan,
    options: Options,
    warned: set[str],
) -> list[tuple[Operand, Array]]:
    """Relevance of the operands of an operation that is no layer."""
    primitive, inputs = operation.primitive, operation.inputs
    operands = [value(i) for i in inputs]
    places = [
        place
        for place, i in enumerate(inputs)
        if isinstance(i, int) and i in plan.active and _is_float(operands[place])
    ]
    if not places:
        return []
    if operation.function:
        return _through_function(operation, operands, places[0], relevance, options)
    if primitive in ("add", "sub") and len(places) == 2:
        return _through_sum(operation, operands, relevance[0], options)
    if primitive == "reduce_window_max" and options.max_pool == "proportional":
        found = _proportional(operation, operands[0], relevance[0], options)
        return [(inputs[0], found)]
    if primitive not in MOVES | WINNERS and primitive not in warned:
        warned.add(primitive)
        where = f" in {operation.name}" if operation.name else ""
        warnings.warn(
            f"{primitive}{where}: no rule for this primitive; its gradient is taken, and relevance"
            " is not conserved there.",
            RelevanceWarning,
            stacklevel=4,
        )
    return _by_gradient(operation, operands, places, relevance)


def _through_sum(
    operation: Operation, operands: list[Any], relevance: Any, options: Options
) -> list[tuple[Operand, Array]]:
    """A sum of two values: each has its share in it."""
    sign = -1 if operation.primitive == "sub" else 1
    a, b = (jnp.asarray(v).astype(wider(v.dtype)) for v in operands)
    s = stabilised_ratio(relevance, a + sign * b, options.stabilizer)
    shares = [(operation.inputs[0], a * s, a), (operation.inputs[1], sign * b * s, b)]
    return [(operand, _unbroadcast(share, like.shape)) for operand, share, like in shares]


def _proportional(operation: Operation, x: Any, relevance: Any, options: Options) -> Array:
    """A maximum treated as the sum over its window: R_i = x_i R / stab(sum of the window)."""
    p, x = operation.params, jnp.asarray(x).astype(wider(x.dtype))

    def window_sum(v: Array) -> Array:
        return jax.lax.reduce_window(
            v,
            jnp.zeros((), v.dtype),
            jax.lax.add,
            window_dimensions=p["window_dimensions"],
            window_strides=p["window_strides"],
            padding=p["padding"],
            base_dilation=p["base_dilation"],
            window_dilation=p["window_dilation"],
        )

    s = stabilised_ratio(relevance, window_sum(x), options.stabilizer)
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return x * jax.linear_transpose(window_sum, like_x)(s)[0]


def _through_function(
    operation: Operation,
    operands: list[Any],
    place: int,
    relevance: Sequence[Array | None],
    options: Options,
) -> list[tuple[Operand, Array]]:
    """A function with a rule of its own."""
    rule = options.functions[operation.function]
    (of_output,) = relevance
    assert of_output is not None
    found = rule(lambda *values: operation.apply(*values)[0], operands, of_output)
    expected, got = operands[place].shape, f"shape {jnp.shape(found)}"
    fits = jnp.shape(found) == expected
    expect(fits, f"functions[{operation.function!r}]", f"relevance of shape {expected}", got)
    return [(operation.inputs[place], found)]


def _by_gradient(
    operation: Operation,
    operands: list[Any],
    places: list[int],
    relevance: Sequence[Array | None],
) -> list[tuple[Operand, Array]]:
    """The vector-Jacobian product with the relevance."""
    kept = [n for n, shape in enumerate(operation.shapes) if _is_float(shape)]

    def run(*moved: Any) -> list[Any]:
        full = list(operands)
        for place, operand in zip(places, moved, strict=True):
            full[place] = operand
        out = operation.apply(*full)
        return [out[n] for n in kept]

    try:
        out, pull = jax.vjp(run, *(operands[place] for place in places))
        of_outputs = [
            jnp.zeros_like(o) if relevance[n] is None else jnp.asarray(relevance[n]).astype(o.dtype)
            for n, o in zip(kept, out, strict=True)
        ]
        found = pull(of_outputs)
    except (ValueError, TypeError, NotImplementedError) as error:
        got = f"{operation.primitive} ({operation.name or 'outside of any module'}): {error}"
        expect(False, "fn", "operations that have a gradient", got)
    return [
        (operation.inputs[place], r.astype(wider(r.dtype)))
        for place, r in zip(places, found, strict=True)
    ]


def _find_roots(
    traced: Trace, groups: Mapping[int, Group], active: set[int], x: Any
) -> dict[int, int]:
    """Values that are functions, place by place, of one other value: its number for each."""
    shapes: dict[int, Any] = {0: tuple(x.shape)}
    for operation in traced.operations:
        shapes |= {
            out: shape.shape for out, shape in zip(operation.outputs, operation.shapes, strict=True)
        }
    in_group = {id(op) for group in groups.values() for op in (group.first, *group.after)}
    roots: dict[int, int] = {}
    for operation in traced.operations:
        known = operation.primitive in ELEMENTWISE and not operation.function
        if id(operation) in in_group or not known or len(operation.outputs) != 1:
            continue
        sources = {i for i in operation.inputs if isinstance(i, int) and i in active}
        found = {roots.get(i, i) for i in sources}
        (out,) = operation.outputs
        if len(found) == 1 and all(shapes[i] == shapes[out] for i in sources):
            roots[out] = found.pop()
    return roots


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


def _expect_finite(info: LayerInfo, out: Array) -> None:
    if is_concrete(out):
        bad = int((~jnp.isfinite(out)).sum())
        expect(bad == 0, str(info), "finite outputs", f"{bad} of {out.size} that are not")


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating)) if hasattr(value, "dtype") else False


def _unbroadcast(values: Array, shape: tuple[int, ...]) -> Array:
    """Summed over the axes along which an operand was repeated."""
    if not shape:
        return values.sum()
    pairs = enumerate(zip(values.shape, shape, strict=True))
    axes = tuple(axis for axis, (have, want) in pairs if have != want)
    return values.sum(axes, keepdims=True) if axes else values
