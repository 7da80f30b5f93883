"""Propagation of relevance from the outputs of a function back to its input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.checks import expect, is_concrete, message
from esv_jax.relevance.graph import (
    Constant,
    Graph,
    Operand,
    Operation,
    Spec,
    evaluate,
    is_complex,
    is_inexact,
    trace,
)
from esv_jax.relevance.layers import Group, LayerInfo, find_groups, make_linear
from esv_jax.relevance.operation_rules import (
    Options,
    Step,
    expect_relevance,
    operation_step,
    softmax_step,
    sum_step,
    widened,
)
from esv_jax.relevance.primitives import ELEMENTWISE, MOVES, Patterns, nonnegative_values
from esv_jax.relevance.rules import Layer, Rule, ZBox, stabilised_ratio

_SUM = ("add", "sub", "add_any")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The propagation through a function, made before any value is known.

    Attributes:
      groups: layers and sums, by the index of their first operation.
      active: numbers of the values through which relevance can reach the input.
      roots: numbers of values that are elementwise functions of one other value -> its number.
      nonnegative: numbers of values that are >= 0 for every input.
      steps: through operations that are no layers, by their index.
    """

    graph: Graph
    groups: dict[int, Group]
    active: set[int]
    roots: dict[int, int]
    nonnegative: set[int]
    steps: dict[int, Step]

    @property
    def layers(self) -> list[LayerInfo]:
        """The linear layers, in forward order."""
        return [group.info for group in self.groups.values() if group.info is not None]

    @property
    def unknown(self) -> list[str]:
        """Descriptions of operations without a rule, one for each primitive."""
        found: dict[str, str] = {}
        for index, step in self.steps.items():
            if step.unknown:
                found.setdefault(self.graph.operations[index].primitive, step.unknown)
        return list(found.values())

    def sources(self, operation: Operation) -> list[int]:
        """Its operands through which relevance can reach the input."""
        return [i for i in operation.inputs if isinstance(i, int) and i in self.active]


def make_plan(fn: Callable[[Array], Array], x: Array | Spec, options: Options) -> Plan:
    """Trace a function and choose the propagation through each of its operations.

    Raises:
      ValueError: a layer without outputs, where the input is too short for the model; an operation
      without a rule, for unknown="error".
    """
    graph = trace(fn, x, tuple(options.functions))
    patterns = Patterns(graph)
    softmaxes = {} if options.attention is None else patterns.softmaxes()
    is_cplrp = options.attention == "cplrp"
    active = _find_active(graph, patterns.attention_weights(softmaxes) if is_cplrp else set())
    groups = find_groups(graph, active)
    plan = Plan(graph, groups, active, {}, nonnegative_values(graph), {})
    plan.roots.update(_find_roots(plan, options.use_bias))
    for layer in plan.layers:
        got = f"shape {layer.output_shape} from {layer.input_shape}"
        way_out = f"The input of shape {tuple(x.shape)} is too short or too small for the model."
        expect(0 not in layer.output_shape, str(layer), "outputs", got, way_out)
    after_layers = {operation for group in groups.values() for operation in group.after}
    needed = {plan.roots.get(graph.output, graph.output)}  # type: ignore[arg-type]
    for index, operation in reversed([*enumerate(graph.operations)]):
        group = groups.get(index)
        outputs = set(operation.outputs) if group is None else {group.output}
        if operation in after_layers or not outputs & needed:
            continue
        sources: Sequence[Operand] = ()
        if group is not None and group.info is not None:
            sources = (group.x,)
        else:
            step: Step | None
            if group is not None:
                step = sum_step(group, options.stabilizer)
            elif operation.outputs[0] in softmaxes:
                step = softmax_step(softmaxes[operation.outputs[0]])
            else:
                step = operation_step(graph, patterns, operation, active, options)
            if step is not None:
                plan.steps[index], sources = step, step.sources
        needed |= {plan.roots.get(i, i) for i in sources if i in active}
    return plan


def _find_active(graph: Graph, stopped: set[int]) -> set[int]:
    """Numbers of the values through which relevance can reach the input.

    They depend on the input, other than through `stop_gradient` and the values in `stopped`.
    Integers and booleans are constants, unless they are part of an activation.
    """
    source = {0: 0}
    for operation in graph.operations:
        sources = {source[i] for i in operation.inputs if isinstance(i, int) and i in source}
        if not sources or operation.primitive == "stop_gradient":
            continue
        is_activation = operation.primitive in ELEMENTWISE and len(sources) == 1
        for out, shape in zip(operation.outputs, operation.shapes, strict=True):
            if out not in stopped and (is_inexact(shape) or is_activation):
                source[out] = min(sources) if is_activation else out
    return set(source)


def _find_roots(plan: Plan, use_bias: bool) -> dict[int, int]:
    """Numbers of values that are elementwise functions of one other value -> the number of that.

    If biases receive relevance, a sum with an array of constants is no such function.
    """
    grouped = {op for group in plan.groups.values() for op in (group.first, *group.after)}
    roots: dict[int, int] = {}
    for operation in plan.graph.operations:
        is_elementwise = operation.primitive in ELEMENTWISE and not operation.function
        if operation in grouped or not is_elementwise or len(operation.outputs) != 1:
            continue
        sources = set(plan.sources(operation))
        is_sum = operation.primitive in _SUM and all(operation.input_shapes)
        if use_bias and is_sum and len(sources) == 1 and len(set(operation.inputs)) == 2:
            continue
        found = {roots.get(i, i) for i in sources}
        (out,) = operation.outputs
        specs = [plan.graph.shapes[i] for i in (*sources, out)]
        same_shape = all(spec.shape == specs[-1].shape for spec in specs)
        is_active = out in plan.active and not any(map(is_complex, specs))
        if len(found) == 1 and same_shape and is_active:
            roots[out] = found.pop()
    return roots


class Propagated(NamedTuple):
    """Relevance of the input, and of the inputs of each layer by its index.

    Also the sum of the relevance `given` to the outputs, and of the part that rules of layers and
    functions, constants and softmaxes have `taken`.
    """

    relevance: Array
    at_layers: dict[int, Array]
    given: Array
    taken: Array


def propagate(
    plan: Plan, x: Array, rules: Sequence[Rule], start: Callable[[Array], Array], options: Options
) -> Propagated:
    """Relevance of x by one rule for each layer; `start` maps outputs to their relevance."""
    backward = _Backward(plan, x, rules, options)
    started = start(jnp.asarray(backward.value(plan.graph.output)))
    backward.add(plan.graph.output, started)
    for index in reversed(range(len(plan.graph.operations))):
        backward.step(index)
    at_input = backward.relevance.get(0, jnp.zeros_like(x))  # zeros if no output depends on it
    taken = sum(backward.taken, jnp.zeros((), jnp.float32))
    return Propagated(at_input, backward.at_layers, _total([started]), taken)


class _Backward:
    """The backward pass of relevance through the operations of a plan."""

    def __init__(self, plan: Plan, x: Array, rules: Sequence[Rule], options: Options) -> None:
        self.plan, self.rules, self.options = plan, rules, options
        self.values = {0: x}
        evaluate(plan.graph.operations, self.values, self.value)
        self.relevance: dict[int, Array] = {}
        self.at_layers: dict[int, Array] = {}
        self.taken: list[Array] = []
        self.reached = self._find_reached()

    def value(self, operand: Operand) -> ArrayLike:
        """The value of an operand."""
        return operand.value if isinstance(operand, Constant) else self.values[operand]

    def step(self, index: int) -> None:
        """Propagate relevance from the outputs of an operation to its operands."""
        group, step = self.plan.groups.get(index), self.plan.steps.get(index)
        if step is not None:
            relevance = [self.relevance.get(out) for out in step.outputs]
            given = [r for r in relevance if r is not None]
            if given:
                found = step.rule(self.value, relevance)
                if step.keeps:
                    self.take(given, found)
                for operand, r in zip(step.sources, found, strict=True):
                    self.add(operand, r)
        elif group is not None and group.info is not None and group.output in self.relevance:
            at_layer = self._through_layer(group, group.info, self.relevance[group.output])
            self.at_layers[group.info.index] = at_layer
            self.add(group.x, at_layer)

    def add(self, operand: Operand, found: Array) -> None:
        """Add relevance to a value, or to the source of an activation."""
        if isinstance(operand, Constant) or operand not in self.plan.active:
            return
        given, roots = found, self.plan.roots
        while self.options.use_bias and operand in roots:
            inner = self._without_constant(operand)
            if inner is None:
                break
            operand, share = inner
            found = found * share
        if operand in self.reached:
            found = jnp.where(self.reached[operand], found, 0)
        if found is not given:
            self.take([given], [found])
        root = roots.get(operand, operand)
        known = self.relevance.get(root)
        self.relevance[root] = found if known is None else known + found

    def take(self, before: Sequence[Array], after: Sequence[Array]) -> None:
        """Record relevance that a rule or a constant keeps."""
        self.taken.append(_total(before) - _total(after))

    def _without_constant(self, operand: int) -> tuple[int, ArrayLike] | None:
        """The value in a sum with a constant, or in a multiple, and its share of the result."""
        operation = self.plan.graph.makers[operand]
        primitive, inputs = operation.primitive, operation.inputs
        sources = self.plan.sources(operation)
        if len(sources) != 1 or primitive not in ("add", "sub", "mul", "div", "neg"):
            return None
        (source,) = sources
        index = inputs.index(source)
        own, out = widened(self.value(source)), widened(self.value(operand))
        if primitive in ("add", "sub"):
            own = -own if primitive == "sub" and index == 1 else own
            return source, stabilised_ratio(own, out, self.options.stabilizer)
        if primitive == "mul":
            is_nonzero = jnp.asarray(self.value(inputs[1 - index])) != 0
            return source, is_nonzero.astype(out.dtype)
        return None if index == 1 else (source, 1)

    def _find_reached(self) -> dict[int, Array]:
        """Masks of where an activation depends on its source; absent if it does everywhere.

        It does not where a constant is selected or a factor is zero.
        """
        reached: dict[int, Array] = {}
        for operation in self.plan.graph.operations:
            if self.plan.roots.keys().isdisjoint(operation.outputs):
                continue
            sources, inputs = self.plan.sources(operation), operation.inputs
            (out,), shape = operation.outputs, operation.shapes[0].shape
            if all(i in reached for i in sources):
                reached[out] = functools.reduce(jnp.logical_or, [reached[i] for i in sources])
            if operation.primitive == "select_n" and inputs[0] not in sources:
                if not all(i in sources and i not in reached for i in inputs[1:]):
                    cases = [reached.get(i, True) if i in sources else False for i in inputs[1:]]
                    cases = [jnp.broadcast_to(case, shape) for case in cases]
                    reached[out] = lax.select_n(jnp.asarray(self.value(inputs[0])), *cases)
            elif operation.primitive == "mul" and len(sources) == 1 and len(set(inputs)) == 2:
                (factor,) = [self.value(i) for i in inputs if i != sources[0]]
                if not (np.ndim(factor) == 0 and is_concrete(factor) and factor != 0):
                    is_nonzero = jnp.broadcast_to(jnp.asarray(factor) != 0, shape)
                    reached[out] = is_nonzero & reached.get(out, True)
        return reached

    def _through_layer(self, group: Group, info: LayerInfo, relevance: Array) -> Array:
        """The relevance of the inputs of a layer."""
        linear, rule = make_linear(group, self.value), self.rules[info.index]
        relevance = relevance.astype(linear.out.dtype)
        if is_concrete(linear.out):
            bad = int((~jnp.isfinite(linear.out)).sum())
            expect(
                bad == 0, str(info), "finite outputs", f"{bad} of {linear.out.size} that are not"
            )
        assert linear.weight is not None
        low = high = None
        if isinstance(rule, ZBox):
            low, high = self._input_bounds(group, rule, info)
        layer = Layer(
            name=str(info),
            kind=info.kind,
            x=linear.x,
            weight=linear.weight,
            product=linear.product,
            out=linear.out,
            bias=linear.bias,
            use_bias=self.options.use_bias,
            stabilizer=self.options.stabilizer,
            is_positive=group.x in self.plan.nonnegative,
            low=low,
            high=high,
        )
        found = expect_relevance(f"{rule} at {info}", rule(layer, relevance), linear.x)
        self.take([relevance], [found])
        return found

    def _input_bounds(self, group: Group, rule: ZBox, info: LayerInfo) -> tuple[Array, Array]:
        """The bounds of the inputs of a first layer, from those of the input of the function."""
        before: list[Operation] = []
        todo: set[Operand] = {group.x}
        for operation in reversed(self.plan.graph.operations):
            if todo & set(operation.outputs):
                got = f"{info} behind {operation.primitive}"
                way_out = "Take another rule there, or give ZBox to the first layer."
                is_known = operation.primitive in MOVES | ELEMENTWISE
                expect(is_known, "ZBox", "a first layer", got, way_out)
                before.insert(0, operation)
                todo |= set(operation.inputs) & self.plan.active
        x = self.values[0]
        low, high = _like("ZBox.low", rule.low, x), _like("ZBox.high", rule.high, x)
        if all(map(is_concrete, (x, low, high))):
            outside = np.asarray((x < low) | (x > high))
            got = f"{outside.sum()} of {outside.size} numbers outside, {x.min()}..{x.max()} in all"
            way_out = "Give the bounds of the input of the function."
            expected = "an input within low..high"
            expect(not outside.any(), f"ZBox at {info}", expected, got, way_out)
        ends = []
        for bound in (low, high):
            values = {0: bound}
            evaluate(before, values, self.value)
            ends.append(widened(values[group.x]))
        return jnp.minimum(*ends), jnp.maximum(*ends)


def _like(name: str, bound: ArrayLike, x: Array) -> Array:
    """A bound broadcast to the input, its last axes first."""
    array = jnp.asarray(bound, dtype=x.dtype)
    try:
        return jnp.broadcast_to(array.reshape((1,) * (x.ndim - array.ndim) + array.shape), x.shape)
    except ValueError:
        got = f"shape {np.shape(bound)}"
        raise ValueError(message(name, f"a bound that fits {x.shape}", got)) from None


def _total(relevance: Sequence[Array]) -> Array:
    """The sum of relevance, (), over the real and the imaginary parts."""
    total = jnp.zeros((), jnp.float32)
    for r in relevance:
        for part in (r.real, r.imag) if jnp.iscomplexobj(r) else (r,):
            total = total + part.sum().astype(jnp.float32)
    return total
