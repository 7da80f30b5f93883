"""Propagation of relevance through operations that are not linear layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, message, wider
from esv_jax.relevance.graph import (
    Constant,
    Graph,
    Operand,
    Operation,
    evaluate,
    is_complex,
    is_inexact,
)
from esv_jax.relevance.layers import Group, Value, make_linear
from esv_jax.relevance.primitives import MOVES, PRODUCTS, WINNERS, Patterns, Softmax
from esv_jax.relevance.rules import stabilised_ratio

Attention = Literal["attnlrp", "cplrp"]
MaxPool = Literal["winner", "proportional"]
Unknown = Literal["error", "gradient"]
FunctionRule: TypeAlias = Callable[[Callable[..., Array], Sequence[ArrayLike], Array], Array]
"""(function, its operands, relevance of its output) -> relevance of its first operand."""
Relevance: TypeAlias = Sequence[Array | None]
"""Relevance of the outputs of an operation; None for zero."""
Rule: TypeAlias = Callable[[Value, Relevance], list[Array]]
"""(operand -> its value, relevance of the outputs) -> relevance of the sources."""

_TWO_FACTORS = ("mul", "div", *PRODUCTS)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the propagation other than the rules of layers; see `lrp`."""

    use_bias: bool = False
    stabilizer: float = 1e-6
    max_pool: MaxPool = "winner"
    functions: Mapping[str, FunctionRule] = dataclasses.field(default_factory=dict)
    attention: Attention | None = None
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        """Check the options."""
        expect(self.stabilizer >= 0, "stabilizer", "a number >= 0", self.stabilizer)
        expect_choice("max_pool", self.max_pool, get_args(MaxPool))
        expect_choice("unknown", self.unknown, get_args(Unknown))


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Propagation of relevance from computed values to their sources.

    Attributes:
      keeps: True if the rule or constants may keep a part of the relevance by design.
      unknown: description of an operation without a rule, else "".
    """

    outputs: tuple[int, ...]
    sources: tuple[Operand, ...]
    rule: Rule
    keeps: bool = False
    unknown: str = ""


def operation_step(
    graph: Graph, patterns: Patterns, operation: Operation, active: set[int], options: Options
) -> Step | None:
    """The propagation through one operation; None if no operand can receive relevance."""
    primitive, inputs = operation.primitive, operation.inputs
    own = tuple(n for n, i in enumerate(inputs) if i in active and is_inexact(graph.shapes[i]))
    if not own:
        return None
    others = [i for n, i in enumerate(inputs) if n not in own]
    has_constants = any(
        is_inexact(graph.shapes[i] if isinstance(i, int) else i.value) for i in others
    )

    def step(rule: Rule, own: Sequence[int] = own, keeps: bool = False, unknown: str = "") -> Step:
        return Step(operation.outputs, tuple(inputs[n] for n in own), rule, keeps, unknown)

    def by_slope(share: float = 1.0, without_constants: bool = False) -> Rule:
        return _by_slope(operation, own, options.stabilizer, share, without_constants)

    attention, has_two = options.attention, len(own) == 2
    if operation.function:
        rule = _by_function(operation, own[0], options.functions[operation.function])
        return step(rule, own[:1], keeps=True)
    if primitive in ("add", "sub", "add_any") and has_two:
        return step(_by_share(operation, options.stabilizer))
    if primitive == "reduce_window_max" and options.max_pool == "proportional":
        return step(_by_share_of_window(operation, options.stabilizer))
    if primitive in MOVES | WINNERS:
        rule = _by_move(operation, own)
        return step(rule, keeps=has_constants)
    if primitive == "abs":  # of complex numbers: the length of two parts
        return step(by_slope())
    if primitive in ("mul", "div") and has_two and not is_complex(operation.shapes[0]):
        held = [_is_held(patterns, operation, n, attention) for n in (0, 1)]
        if held[0] != held[1]:
            free = (held.index(False),)
            return step(_unchanged(operation, 1.0, free), free)
        if attention is not None:
            return step(_unchanged(operation, 0.5, own))
    if attention is not None and has_two and primitive in _TWO_FACTORS:
        return step(by_slope(0.5))
    if attention is not None and primitive == "reduce_prod":
        (before,), (after,) = operation.input_shapes, operation.shapes
        return step(by_slope(math.prod(after.shape) / math.prod(before)))
    if _is_linear(graph, operation, own):
        without = not options.use_bias and bool(others) and primitive not in _TWO_FACTORS
        return step(by_slope(without_constants=without), keeps=has_constants)
    place = f"{primitive} in {operation.name}" if operation.name else primitive
    if options.unknown == "error":
        raise ValueError(_without_rule(primitive, place))
    return step(by_slope(), unknown=place)


def softmax_step(softmax: Softmax) -> Step:
    """The propagation from a softmax to its scores: x_i (R_i - softmax(x)_i sum_j R_j)."""

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        x = jnp.asarray(value(softmax.x))

        def weights(x: Array) -> Array:
            values = {softmax.x: x}
            evaluate(softmax.operations, values, value)
            return values[softmax.output]

        out, pull = jax.vjp(weights, x)
        s = stabilised_ratio(_only(relevance), widened(out), 0).astype(out.dtype)
        slope = widened(pull(s)[0])
        return [jnp.where(slope == 0, 0, widened(x) * slope)]  # a mask makes scores infinite

    return Step((softmax.output,), (softmax.x,), rule, keeps=True)


def sum_step(group: Group, stabilizer: float) -> Step:
    """The propagation from a sum over axes to its addends, by their share."""

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        linear = make_linear(group, value)
        s = stabilised_ratio(_only(relevance).astype(linear.out.dtype), linear.out, stabilizer)
        return [linear.x * _transposed(lambda x: linear.product(x, None), linear.x, s)]

    return Step((group.output,), (group.x,), rule)


def _is_held(
    patterns: Patterns, operation: Operation, index: int, attention: Attention | None
) -> bool:
    """True if one of two factors is a constant for the rules: the divisor of a norm, or a gate."""
    value = operation.inputs[index]
    if attention is None:
        return patterns.is_gate(value) and operation.primitive == "mul"
    if operation.primitive == "div":
        return index == 1 and patterns.is_normalizer(value)
    below = patterns.divisor(value)
    return value in patterns.statistics or (below is not None and patterns.is_normalizer(below))


def _is_linear(graph: Graph, operation: Operation, own: Sequence[int]) -> bool:
    """True if JAX can transpose an operation as a function of some operands together."""
    inputs = operation.inputs
    constants = {n: i.value for n, i in enumerate(inputs) if isinstance(i, Constant)}
    specs = {n: graph.shapes[i] for n, i in enumerate(inputs) if isinstance(i, int)}
    like = [specs.pop(n) for n in own]

    def transposed(others: dict[int, Array], s: list[Array]) -> list[Array]:
        operands = [(constants | others).get(n) for n in range(len(inputs))]
        return jax.linear_transpose(_of_operands(operation, operands, own), *like)(s)

    try:
        jax.eval_shape(
            transposed, specs, [shape for shape in operation.shapes if is_inexact(shape)]
        )
    except Exception:  # its type depends on the primitive
        return False
    return True


def _without_rule(primitive: str, place: str) -> str:
    """The message about an operation without a rule."""
    way_out = "Put it into a function under jax.jit with a rule of its own in functions=."
    if primitive == "while":
        way_out = "Write the loop with lax.scan, or with lax.fori_loop over Python ints."
    if primitive in _TWO_FACTORS:
        way_out = (
            "It combines two activations, as softmax, norms, attention and gates do: take"
            " composite='attnlrp' or 'cplrp', or for_transformers(composite)."
        )
    end = "Or take its gradient times its inputs: unknown='gradient'."
    got = f"{place}, which has none"
    return message("fn", "operations with a rule for relevance", got, f"{way_out} {end}")


def _by_share(operation: Operation, stabilizer: float) -> Rule:
    """Relevance of two addends by their share."""

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        a, b = (widened(value(i)) for i in operation.inputs)
        b = -b if operation.primitive == "sub" else b
        s = stabilised_ratio(_only(relevance), a + b, stabilizer)
        return [_unbroadcast(_each_part(v, s), v.shape) for v in (a, b)]

    return rule


def _by_share_of_window(operation: Operation, stabilizer: float) -> Rule:
    """Relevance through a maximum treated as the sum over its window."""
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    window = {name: operation.params[name] for name in names}

    def window_sum(v: Array) -> Array:  # the zero is concrete, which the transpose requires
        return lax.reduce_window(v, np.zeros((), v.dtype), lax.add, **window)

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        x = widened(value(operation.inputs[0]))
        s = stabilised_ratio(_only(relevance), window_sum(x), stabilizer)
        return [x * _transposed(window_sum, x, s)]

    return rule


def _unchanged(operation: Operation, share: float, own: Sequence[int]) -> Rule:
    """A share of the relevance of an elementwise operation, the same for each operand."""
    shapes = [operation.input_shapes[n] for n in own]
    return lambda value, relevance: [
        _unbroadcast(share * _only(relevance), shape) for shape in shapes
    ]


def _by_function(operation: Operation, index: int, own: FunctionRule) -> Rule:
    """Relevance through a function that has a rule of its own."""

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        operands = [value(i) for i in operation.inputs]
        found = own(lambda *values: operation.apply(*values)[0], operands, _only(relevance))
        name = f"functions[{operation.function!r}]"
        return [expect_relevance(name, found, jnp.asarray(operands[index]))]

    return rule


def _by_move(operation: Operation, own: Sequence[int]) -> Rule:
    """Relevance of operands that are moved, by the vector-Jacobian product."""

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        operands = [value(i) for i in operation.inputs]
        return _vjp(operation, operands, own, relevance, lambda r, out: r)

    return rule


def _by_slope(
    operation: Operation,
    own: Sequence[int],
    stabilizer: float,
    share: float,
    without_constants: bool,
) -> Rule:
    """Operand times slope, x_i sum_j (d out_j / d x_i) R_j / stab(out_j), times a share.

    Exact for linear operations, where `without_constants` leaves constant addends out of out_j.
    """

    def weigh(r: Array, out: Array) -> Array:
        return jnp.conj(stabilised_ratio(r, widened(out), stabilizer))

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        operands = [value(i) for i in operation.inputs]
        x = [jnp.asarray(operands[n]) for n in own]
        at = None
        if without_constants:
            at = jax.jvp(_of_operands(operation, operands, own), x, x)[1]
        slopes = _vjp(operation, operands, own, relevance, weigh, at)
        pairs = zip(x, slopes, strict=True)
        return [share * _each_part(widened(v), jnp.conj(slope)) for v, slope in pairs]

    return rule


def _only(relevance: Relevance) -> Array:
    """The relevance of the only output."""
    (r,) = relevance
    assert r is not None
    return r


def _transposed(linear: Callable[[Array], Array], x: Array, s: Array) -> Array:
    """The transpose of a linear function of x, applied to s."""
    (back,) = jax.linear_transpose(linear, jax.ShapeDtypeStruct(x.shape, x.dtype))(s)
    return back


def _of_operands(
    operation: Operation, operands: Sequence[ArrayLike | None], own: Sequence[int]
) -> Callable[..., list[Array]]:
    """The real or complex outputs of an operation as a function of some of its operands."""

    def run(*values: Array) -> list[Array]:
        replaced = dict(zip(own, values, strict=True))
        given = [replaced.get(n, operand) for n, operand in enumerate(operands)]
        return [out for out in operation.apply(*given) if is_inexact(out)]

    return run


def _vjp(
    operation: Operation,
    operands: Sequence[ArrayLike],
    own: Sequence[int],
    relevance: Relevance,
    weigh: Callable[[Array, Array], Array],
    at: Sequence[Array] | None = None,
) -> list[Array]:
    """The vector-Jacobian product for some operands, in single precision at least.

    The vector is weigh(relevance, output) for each real or complex output, or for those in `at`.
    """
    known = [r for r, spec in zip(relevance, operation.shapes, strict=True) if is_inexact(spec)]
    try:
        function = _of_operands(operation, operands, own)
        out, pull = jax.vjp(function, *(operands[n] for n in own))
        vector = [
            jnp.zeros_like(o) if r is None else weigh(r, o).astype(o.dtype)
            for r, o in zip(known, out if at is None else at, strict=True)
        ]
        return [widened(r) for r in pull(vector)]
    except (ValueError, TypeError, NotImplementedError) as error:
        got = f"{operation.primitive} ({operation.name or 'outside of any module'}): {error}"
        raise ValueError(message("fn", "operations that have a gradient", got)) from error


def expect_relevance(name: str, found: Array, like: Array) -> Array:
    """Return the result of a rule; refuse anything but an array like the inputs."""
    expected = f"relevance of shape {like.shape}"
    is_array = hasattr(found, "shape") and is_inexact(found)
    expect(is_array, name, expected, type(found).__name__, kind=TypeError)
    expect(found.shape == like.shape, name, expected, f"shape {found.shape}")
    return found


def widened(value: ArrayLike) -> Array:
    """The value in single precision at least."""
    array = jnp.asarray(value)
    return array.astype(wider(array.dtype))


def _each_part(x: Array, s: Array) -> Array:
    """The product; for complex numbers that of the real and that of the imaginary parts."""
    return lax.complex(x.real * s.real, x.imag * s.imag) if jnp.iscomplexobj(x) else x * s


def _unbroadcast(values: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an operand was repeated."""
    if not shape:
        return values.sum()
    pairs = enumerate(zip(values.shape, shape, strict=True))
    axes = tuple(axis for axis, (have, want) in pairs if have != want)
    return values.sum(axes, keepdims=True) if axes else values
