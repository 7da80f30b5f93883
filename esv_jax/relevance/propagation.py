"""Relevance, from the outputs of a traced function back to its input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import expect, is_concrete, message, wider
from esv_jax.relevance.kinds import ELEMENTWISE, MOVES, PRODUCTS, Softmax, is_inexact
from esv_jax.relevance.layers import Group, LayerInfo, make_linear
from esv_jax.relevance.plan import Passage, Plan
from esv_jax.relevance.rules import Layer, Rule, ZBox, stabilised_ratio
from esv_jax.relevance.trace import Constant, Operand, Operation, Trace

MaxPool = Literal["winner", "proportional"]
FunctionRule = Callable[[Callable[..., Any], Sequence[Any], Array], Any]
"""(function, its operands, relevance of its output) -> relevance of its first operand."""

_PRODUCTS = {"mul", "div", *PRODUCTS}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the propagation beside the layers' rules; see `lrp`."""

    use_bias: bool = False
    stabilizer: float = 1e-6
    max_pool: MaxPool = "winner"
    functions: Mapping[str, FunctionRule] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Propagated:
    """Relevance that has come back to the input.

    Attributes:
      relevance: of the input, like it.
      at_layers: of the inputs of each layer, by its index.
      given: () relevance of the outputs.
      taken: () the part of it that rules of layers and functions, constants and softmaxes keep.
    """

    relevance: Array
    at_layers: dict[int, Array]
    given: Array
    taken: Array


def propagate(
    plan: Plan, x: Array, rules: Sequence[Rule], start: Callable[[Array], Array], options: Options
) -> Propagated:
    """Relevance of the input.

    Args:
      plan: of the function. x: the input.
      rules: one for each layer.
      start: the function's outputs -> their relevance.
    """
    passing = _Passing(plan, _run(plan.trace, x), rules, options)
    output = plan.trace.output
    begun = start(jnp.asarray(passing.value(output)))
    passing.add(output, begun)
    for place in reversed(range(len(plan.trace.operations))):
        passing.step(place)
    of_input = passing.relevance.get(0, jnp.zeros_like(x))  # of outputs that do not depend on it
    taken = sum(passing.taken, jnp.zeros((), jnp.float32))
    return Propagated(of_input, passing.at_layers, _total(begun), taken)


class _Passing:
    """Relevance on its way back through the operations of a plan."""

    def __init__(
        self, plan: Plan, values: dict[int, Any], rules: Sequence[Rule], options: Options
    ) -> None:
        self.plan, self.values, self.rules, self.options = plan, values, rules, options
        self.relevance: dict[int, Array] = {}
        self.at_layers: dict[int, Array] = {}
        self.taken: list[Array] = []
        self.reached = self._reach()

    def value(self, operand: Operand) -> Any:
        """The value of an operand."""
        return operand.value if isinstance(operand, Constant) else self.values[operand]

    def add(self, operand: Operand, found: Array) -> None:
        """Add relevance to a value, or to the value that it is an activation of."""
        if isinstance(operand, Constant) or not self.plan.is_active(operand):
            return
        given = found
        while self.options.use_bias and operand in self.plan.roots:
            inner = self._without_constant(operand)
            if inner is None:
                break
            operand, share = inner
            found = found * share
        reached = self.reached.get(operand, True)
        if reached is not True:
            found = jnp.where(reached, found, 0)
        if found is not given:
            self.take(given, found)
        root = self.plan.roots.get(operand, operand)
        known = self.relevance.get(root)
        self.relevance[root] = found if known is None else known + found

    def take(self, before: Array, after: Array | Sequence[Array]) -> None:
        """Record relevance that a rule or a constant keeps."""
        rest = after if isinstance(after, list | tuple) else [after]
        self.taken.append(_total(before) - sum(map(_total, rest), jnp.zeros((), jnp.float32)))

    def step(self, place: int) -> None:
        """Pass relevance from the outputs of an operation to its operands."""
        plan = self.plan
        operation = plan.trace.operations[place]
        if place in plan.groups:
            group = plan.groups[place]
            if group.output in self.relevance:
                self._through_group(group, self.relevance[group.output])
        elif operation.outputs and operation.outputs[0] in plan.softmaxes:
            softmax = plan.softmaxes[operation.outputs[0]]
            if softmax.output in self.relevance:
                self._through_softmax(softmax, self.relevance[softmax.output])
        elif place in plan.passages:
            passage = plan.passages[place]
            of_outputs = [self.relevance.get(out) for out in operation.outputs]
            if passage.places and any(r is not None for r in of_outputs):
                self._through(operation, passage, of_outputs)

    def _without_constant(self, operand: int) -> tuple[int, Any] | None:
        """The value in a sum with a constant, or in a multiple, and its share of the result."""
        operation = self.plan.makers.of[operand]
        primitive, inner = operation.primitive, self._inner(operation)
        if len(inner) != 1 or primitive not in ("add", "sub", "mul", "div", "neg"):
            return None
        (place,) = [n for n, i in enumerate(operation.inputs) if i == inner[0]]
        own, out = (_wide(self.value(i)) for i in (inner[0], operand))
        if primitive in ("add", "sub"):
            own = -own if primitive == "sub" and place == 1 else own
            return inner[0], stabilised_ratio(own, out, self.options.stabilizer)
        if primitive == "mul":
            return inner[0], (jnp.asarray(self.value(operation.inputs[1 - place])) != 0).astype(
                out.dtype
            )
        return None if place == 1 else (inner[0], 1)

    def _reach(self) -> dict[int, Any]:
        """For each value with a root, a mask of where it depends on it; True if everywhere.

        It does not where a constant is selected or a factor is zero.
        """
        reached: dict[int, Any] = {}
        for operation in self.plan.trace.operations:
            if not any(out in self.plan.roots for out in operation.outputs):
                continue
            inner, inputs = self._inner(operation), operation.inputs
            masks: dict[Any, Any] = {i: reached.get(i, True) for i in inner}
            shape = operation.shapes[0].shape
            found = functools.reduce(_either, masks.values())
            if operation.primitive == "select_n" and inputs[0] not in inner:
                cases = [masks.get(i, False) for i in inputs[1:]]
                if not all(case is True for case in cases):
                    which = jnp.asarray(self.value(inputs[0]))
                    found = lax.select_n(which, *(jnp.broadcast_to(case, shape) for case in cases))
            elif operation.primitive == "mul" and len(inner) == 1 and len(set(inputs)) == 2:
                (factor,) = [self.value(i) for i in inputs if i != inner[0]]
                if not (np.ndim(factor) == 0 and is_concrete(factor) and factor != 0):
                    found = jnp.broadcast_to(jnp.asarray(factor) != 0, shape) & found
            reached[operation.outputs[0]] = found
        return reached

    def _inner(self, operation: Operation) -> list[int]:
        """The operands that relevance can pass."""
        return [i for i in operation.inputs if isinstance(i, int) and self.plan.is_active(i)]

    def _through_group(self, group: Group, relevance: Array) -> None:
        """Pass relevance to the input of a layer or a sum."""
        linear = make_linear(group, self.value)
        options = self.options
        relevance = relevance.astype(linear.out.dtype)
        if group.info is None:
            s = stabilised_ratio(relevance, linear.out, options.stabilizer)
            like_x = jax.ShapeDtypeStruct(linear.x.shape, linear.x.dtype)
            back = jax.linear_transpose(lambda x: linear.product(x, None), like_x)
            self.add(group.x, linear.x * back(s)[0])
            return
        info, rule = group.info, self.rules[group.info.index]
        _expect_finite(info, linear.out)
        assert linear.weight is not None
        low = high = None
        if isinstance(rule, ZBox):
            low, high = _box(self.plan, group, self.value, rule, info)
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
            is_positive=group.x in self.plan.positive,
            low=low,
            high=high,
        )
        found = _expect_like(f"{rule} at {info}", rule(layer, relevance), linear.x)
        self.take(relevance, found)
        self.at_layers[info.index] = found
        self.add(group.x, found)

    def _through_softmax(self, softmax: Softmax, relevance: Array) -> None:
        """Pass relevance to the scores of a softmax: x_i (R_i - softmax(x)_i sum_j R_j)."""
        x = self.values[softmax.x]

        def weights(x: Array) -> Array:
            known = {softmax.x: x}
            for operation in softmax.operations:
                operands = [known[i] if i in known else self.value(i) for i in operation.inputs]
                known |= zip(operation.outputs, operation.apply(*operands), strict=True)
            return known[softmax.output]

        out, pull = jax.vjp(weights, x)
        s = stabilised_ratio(relevance, _wide(out), 0).astype(out.dtype)
        slope = _wide(pull(s)[0])
        found = jnp.where(slope == 0, 0, _wide(x) * slope)  # scores that a mask makes infinite
        self.take(relevance, found)
        self.add(softmax.x, found)

    def _through(
        self, operation: Operation, passage: Passage, relevance: Sequence[Array | None]
    ) -> None:
        """Pass relevance to the operands of an operation that is no layer."""
        options = self.options
        operands = [self.value(i) for i in operation.inputs]
        places = passage.places
        constants = any(is_inexact(v) for n, v in enumerate(operands) if n not in places)
        pool = operation.primitive == "reduce_window_max" and options.max_pool == "proportional"
        if passage.how == "function":
            found = [_by_function(operation, operands, places[0], relevance, options)]
        elif passage.how == "sum":
            found = _by_share(operation, operands, relevance[0], options)
        elif passage.how == "same":
            (of_output,) = relevance
            assert of_output is not None
            found = [_unbroadcast(passage.share * of_output, np.shape(operands[n])) for n in places]
        elif pool and len(operands) == 1:
            found = [_proportional(operation, operands[0], relevance[0], options)]
        elif passage.how == "move":
            found = _moved(operation, operands, places, relevance)
        else:
            found = _by_slope(operation, operands, passage, relevance, options)
        if passage.how == "function" or (constants and passage.how in ("move", "linear")):
            for of_output in relevance:
                if of_output is not None:
                    self.take(of_output, jnp.zeros(()))
            self.take(jnp.zeros(()), found)
        for n, r in zip(places, found, strict=True):
            self.add(operation.inputs[n], r)


def _run(traced: Trace, x: Array) -> dict[int, Any]:
    """Every value of a trace."""
    values: dict[int, Any] = {0: x}
    for operation in traced.operations:
        operands = [i.value if isinstance(i, Constant) else values[i] for i in operation.inputs]
        values |= zip(operation.outputs, operation.apply(*operands), strict=True)
    return values


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


def _by_share(
    operation: Operation, operands: list[Any], relevance: Any, options: Options
) -> list[Array]:
    """The relevance of both addends of a sum, by their shares."""
    a, b = map(_wide, operands)
    b = -b if operation.primitive == "sub" else b
    s = stabilised_ratio(relevance, a + b, options.stabilizer)
    return [_unbroadcast(_each_part(v, s), v.shape) for v in (a, b)]


def _proportional(operation: Operation, x: Any, relevance: Any, options: Options) -> Array:
    """A maximum treated as the sum over its window: R_i = x_i R / stab(sum of the window)."""
    p, x = operation.params, jnp.asarray(x).astype(wider(x.dtype))

    def window_sum(v: Array) -> Array:
        return jax.lax.reduce_window(
            v,
            np.zeros((), v.dtype),  # a value also under jit: other sums have no transpose
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


def _by_function(
    operation: Operation,
    operands: list[Any],
    place: int,
    relevance: Sequence[Array | None],
    options: Options,
) -> Array:
    """A function with a rule of its own."""
    rule = options.functions[operation.function]
    (of_output,) = relevance
    assert of_output is not None
    found = rule(lambda *values: operation.apply(*values)[0], operands, of_output)
    return _expect_like(f"functions[{operation.function!r}]", found, operands[place])


def _moved(
    operation: Operation,
    operands: list[Any],
    places: Sequence[int],
    relevance: Sequence[Array | None],
) -> list[Array]:
    """Relevance of values that are moved, by the vector-Jacobian product."""

    def given(out: list[Any]) -> list[Array]:
        return [
            jnp.zeros_like(o) if r is None else r.astype(o.dtype)
            for r, o in zip(_of_numbers(operation, relevance), out, strict=True)
        ]

    return _pulled(operation, operands, places, given)


def _by_slope(
    operation: Operation,
    operands: list[Any],
    passage: Passage,
    relevance: Sequence[Array | None],
    options: Options,
) -> list[Array]:
    """x_i sum_j (d out_j / d x_i) R_j / stab(out_j), exact where an operation is linear.

    Constant addends are left out of the denominators where biases are not used.
    """
    places = passage.places
    moved = [operands[n] for n in places]
    has_constants = len(places) < len(operands) and operation.primitive not in _PRODUCTS

    def given(out: list[Any]) -> list[Array]:
        z = out
        if passage.how == "linear" and has_constants and not options.use_bias:
            z = jax.jvp(_of_places(operation, operands, places), moved, moved)[1]
        return [
            jnp.zeros_like(z_)
            if r is None
            else jnp.conj(stabilised_ratio(r, _wide(z_), options.stabilizer)).astype(z_.dtype)
            for r, z_ in zip(_of_numbers(operation, relevance), z, strict=True)
        ]

    slopes = _pulled(operation, operands, places, given)
    return [
        passage.share * _each_part(_wide(x), jnp.conj(slope))
        for x, slope in zip(moved, slopes, strict=True)
    ]


def _of_numbers(operation: Operation, relevance: Sequence[Array | None]) -> list[Array | None]:
    """The relevance of those outputs that are real or complex."""
    pairs = zip(operation.shapes, relevance, strict=True)
    return [r for shape, r in pairs if is_inexact(shape)]


def _of_places(
    operation: Operation, operands: list[Any], places: Sequence[int]
) -> Callable[..., list[Any]]:
    """An operation's outputs, real or complex, as a function of some of its operands."""

    def run(*moved: Any) -> list[Any]:
        full = list(operands)
        for place, operand in zip(places, moved, strict=True):
            full[place] = operand
        return [out for out in operation.apply(*full) if is_inexact(out)]

    return run


def _pulled(
    operation: Operation,
    operands: list[Any],
    places: Sequence[int],
    given: Callable[[list[Any]], list[Array]],
) -> list[Array]:
    """The vector-Jacobian product by the operands at some places, in single precision at least.

    `given` makes the vector, one array for each real or complex output, from these outputs.
    """
    try:
        out, pull = jax.vjp(_of_places(operation, operands, places), *(operands[n] for n in places))
        return [_wide(r) for r in pull(given(out))]
    except (ValueError, TypeError, NotImplementedError) as error:
        got = f"{operation.primitive} ({operation.name or 'outside of any module'}): {error}"
        raise ValueError(message("fn", "operations that have a gradient", got)) from error


def _expect_finite(info: LayerInfo, out: Array) -> None:
    if is_concrete(out):
        bad = int((~jnp.isfinite(out)).sum())
        expect(bad == 0, str(info), "finite outputs", f"{bad} of {out.size} that are not")


def _expect_like(name: str, found: Any, like: Any) -> Array:
    """Returns the result of a rule; refuses anything but an array like the inputs."""
    expected = f"relevance of shape {like.shape}"
    is_array = hasattr(found, "shape") and is_inexact(found)
    expect(is_array, name, expected, type(found).__name__, kind=TypeError)
    expect(found.shape == like.shape, name, expected, f"shape {found.shape}")
    return found


def _wide(value: Any) -> Array:
    """In single precision at least."""
    return jnp.asarray(value).astype(wider(value.dtype))


def _each_part(x: Array, s: Array) -> Array:
    """The product; of complex numbers, that of the real parts and that of the imaginary parts."""
    return lax.complex(x.real * s.real, x.imag * s.imag) if jnp.iscomplexobj(x) else x * s


def _either(a: Any, b: Any) -> Any:
    return True if a is True or b is True else a | b


def _total(relevance: Array) -> Array:
    """The sum of relevance, ()."""
    parts = [relevance.real, relevance.imag] if jnp.iscomplexobj(relevance) else [relevance]
    return sum((part.sum().astype(jnp.float32) for part in parts), jnp.zeros((), jnp.float32))


def _unbroadcast(values: Array, shape: tuple[int, ...]) -> Array:
    """Summed over the axes along which an operand was repeated."""
    if not shape:
        return values.sum()
    pairs = enumerate(zip(values.shape, shape, strict=True))
    axes = tuple(axis for axis, (have, want) in pairs if have != want)
    return values.sum(axes, keepdims=True) if axes else values
