"""Propagation of relevance through operations that are not linear layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.checks import message, wider
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
Rule: TypeAlias = Callable[[list[Array], Relevance], list[Array]]
"""(operands, relevance of the outputs) -> relevance of some of the operands."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Propagation of relevance from computed values to their sources.

    Attributes:
      outputs: numbers of the computed values. sources: of those that receive relevance.
      rule: (operand -> value, relevance of the outputs) -> relevance of the sources.
      keeps: True if a rule or constants may keep a part of the relevance by design.
      unknown: description of an operation without a rule, else "".
    """

    outputs: tuple[int, ...]
    sources: tuple[Operand, ...]
    rule: Callable[[Value, Relevance], list[Array]]
    keeps: bool = False
    unknown: str = ""


def operation_step(
    graph: Graph, patterns: Patterns, operation: Operation, active: set[int], options: Options
) -> Step | None:
    """The propagation through one operation; None if no operand can receive relevance.

    Raises:
      ValueError: an operation without a rule, for unknown="error".
    """
    primitive, inputs = operation.primitive, operation.inputs
    indices = tuple(n for n, i in enumerate(inputs) if i in active and is_inexact(graph.shapes[i]))
    if not indices:
        return None
    others = [i for n, i in enumerate(inputs) if n not in indices]
    specs = [graph.shapes[i] if isinstance(i, int) else i.value for i in others]
    has_constants = any(map(is_inexact, specs))

    def step(
        rule: Rule, indices: tuple[int, ...] = indices, keeps: bool = False, unknown: str = ""
    ) -> Step:
        def with_values(value: Value, relevance: Relevance) -> list[Array]:
            return rule([value(i) for i in inputs], relevance)  # type: ignore[misc]

        sources = tuple(inputs[n] for n in indices)
        return Step(operation.outputs, sources, with_values, keeps, unknown)

    def by_slope(share: float = 1.0, without_constants: bool = False) -> Rule:
        return _by_slope(operation, indices, options.stabilizer, share, without_constants)

    attention, has_two = options.attention, len(indices) == 2
    if operation.function:
        rule = _by_function(operation, indices[0], options.functions[operation.function])
        return step(rule, indices[:1], keeps=True)
    if primitive in ("add", "sub", "add_any") and has_two:
        return step(_by_share(primitive == "sub", options.stabilizer))
    if primitive == "reduce_window_max" and options.max_pool == "proportional":
        return step(_by_share_of_window(operation, options.stabilizer))
    if primitive in MOVES | WINNERS:
        return step(_by_move(operation, indices), keeps=has_constants)
    if primitive == "abs":  # of complex numbers: the length of two parts
        return step(by_slope())
    if primitive in ("mul", "div") and has_two and not is_complex(operation.shapes[0]):
        held = [_is_held(patterns, operation, n, attention) for n in (0, 1)]
        if held[0] != held[1]:
            index = held.index(False)
            return step(_unchanged(operation, 1.0, (index,)), (index,))
        if attention is not None:
            return step(_unchanged(operation, 0.5, indices))
    if attention is not None and has_two and primitive in _TWO_FACTORS:
        return step(by_slope(0.5))
    if attention is not None and primitive == "reduce_prod":
        (before,), (after,) = operation.input_shapes, operation.shapes
        return step(by_slope(math.prod(after.shape) / math.prod(before)))
    if _is_linear(graph, operation, indices):
        without = not options.use_bias and bool(others) and primitive not in _TWO_FACTORS
        return step(by_slope(without_constants=without), keeps=has_constants)
    where = f" in {operation.name}" if operation.name else ""
    if options.unknown == "error":
        raise ValueError(_without_rule(primitive, where))
    return step(by_slope(), unknown=f"{primitive}{where}")


def softmax_step(softmax: Softmax) -> Step:
    """The propagation from a softmax to its scores: x_i (R_i - softmax(x)_i sum_j R_j)."""

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        x = jnp.asarray(value(softmax.x))
        r = _of_one_output(relevance)

        def weights(x: Array) -> Array:
            values = {softmax.x: x}
            evaluate(softmax.operations, values, value)
            return values[softmax.output]

        out, pull = jax.vjp(weights, x)
        s = stabilised_ratio(r, widened(out), 0).astype(out.dtype)
        slope = widened(pull(s)[0])
        return [jnp.where(slope == 0, 0, widened(x) * slope)]  # a mask makes scores infinite

    return Step((softmax.output,), (softmax.x,), rule, keeps=True)


def sum_step(group: Group, stabilizer: float) -> Step:
    """The propagation from a sum over axes to its addends, by their share."""

    def rule(value: Value, relevance: Relevance) -> list[Array]:
        linear, r = make_linear(group, value), _of_one_output(relevance)
        s = stabilised_ratio(r.astype(linear.out.dtype), linear.out, stabilizer)
        spec = jax.ShapeDtypeStruct(linear.x.shape, linear.x.dtype)
        (back,) = jax.linear_transpose(lambda x: linear.product(x, None), spec)(s)
        return [linear.x * back]

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


def _is_linear(graph: Graph, operation: Operation, indices: Sequence[int]) -> bool:
    """True if JAX can transpose an operation as a function of some operands together."""
    inputs = operation.inputs
    constants = {n: i.value for n, i in enumerate(inputs) if isinstance(i, Constant)}
    specs = {n: graph.shapes[i] for n, i in enumerate(inputs) if isinstance(i, int)}
    like = [specs.pop(n) for n in indices]
    outputs = [shape for shape in operation.shapes if is_inexact(shape)]

    def transposed(others: dict[int, Array], s: list[Array]) -> list[Array]:
        operands = [(constants | others).get(n) for n in range(len(inputs))]
        return jax.linear_transpose(_of_operands(operation, operands, indices), *like)(s)

    try:
        jax.eval_shape(transposed, specs, outputs)
    except Exception:  # its type depends on the primitive
        return False
    return True


def _without_rule(primitive: str, where: str) -> str:
    """The message about an operation without a rule."""
    if primitive in _TWO_FACTORS:
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


def _by_share(is_difference: bool, stabilizer: float) -> Rule:
    """Relevance of two addends by their share."""

    def rule(operands: list[Array], relevance: Relevance) -> list[Array]:
        a, b = map(widened, operands)
        b = -b if is_difference else b
        s = stabilised_ratio(_of_one_output(relevance), a + b, stabilizer)
        return [_unbroadcast(_each_part(v, s), v.shape) for v in (a, b)]

    return rule


def _by_share_of_window(operation: Operation, stabilizer: float) -> Rule:
    """Relevance through a maximum treated as the sum over its window."""
    p = operation.params

    def window_sum(v: Array) -> Array:
        return lax.reduce_window(
            v,
            np.zeros((), v.dtype),  # concrete also under jit, which the transpose requires
            lax.add,
            window_dimensions=p["window_dimensions"],
            window_strides=p["window_strides"],
            padding=p["padding"],
            base_dilation=p["base_dilation"],
            window_dilation=p["window_dilation"],
        )

    def rule(operands: list[Array], relevance: Relevance) -> list[Array]:
        x = widened(operands[0])
        s = stabilised_ratio(_of_one_output(relevance), window_sum(x), stabilizer)
        (back,) = jax.linear_transpose(window_sum, jax.ShapeDtypeStruct(x.shape, x.dtype))(s)
        return [x * back]

    return rule


def _unchanged(operation: Operation, share: float, indices: Sequence[int]) -> Rule:
    """A share of the relevance of an elementwise operation, the same for each operand."""
    shapes = [operation.input_shapes[n] for n in indices]

    def rule(_: list[Array], relevance: Relevance) -> list[Array]:
        return [_unbroadcast(share * _of_one_output(relevance), shape) for shape in shapes]

    return rule


def _by_function(operation: Operation, index: int, own: FunctionRule) -> Rule:
    """Relevance through a function that has a rule of its own."""

    def rule(operands: list[Array], relevance: Relevance) -> list[Array]:
        found = own(
            lambda *values: operation.apply(*values)[0], operands, _of_one_output(relevance)
        )
        return [expect_relevance(f"functions[{operation.function!r}]", found, operands[index])]

    return rule


def _by_move(operation: Operation, indices: Sequence[int]) -> Rule:
    """Relevance of operands that are moved, by the vector-Jacobian product."""

    def rule(operands: list[Array], relevance: Relevance) -> list[Array]:
        def vector(out: list[Array]) -> list[Array]:
            return [
                jnp.zeros_like(o) if r is None else r.astype(o.dtype)
                for r, o in zip(_of_numbers(operation, relevance), out, strict=True)
            ]

        return _vjp(operation, operands, indices, vector)

    return rule


def _by_slope(
    operation: Operation,
    indices: Sequence[int],
    stabilizer: float,
    share: float,
    without_constants: bool,
) -> Rule:
    """Operand times slope, x_i sum_j (d out_j / d x_i) R_j / stab(out_j), times a share.

    Exact for linear operations, where `without_constants` leaves constant addends out of out_j.
    """

    def rule(operands: list[Array], relevance: Relevance) -> list[Array]:
        x = [operands[n] for n in indices]

        def vector(out: list[Array]) -> list[Array]:
            z = out
            if without_constants:
                z = jax.jvp(_of_operands(operation, operands, indices), x, x)[1]
            return [
                jnp.zeros_like(z_)
                if r is None
                else jnp.conj(stabilised_ratio(r, widened(z_), stabilizer)).astype(z_.dtype)
                for r, z_ in zip(_of_numbers(operation, relevance), z, strict=True)
            ]

        slopes = _vjp(operation, operands, indices, vector)
        pairs = zip(x, slopes, strict=True)
        return [share * _each_part(widened(v), jnp.conj(slope)) for v, slope in pairs]

    return rule


def _of_one_output(relevance: Relevance) -> Array:
    (r,) = relevance
    assert r is not None
    return r


def _of_numbers(operation: Operation, relevance: Relevance) -> list[Array | None]:
    """The relevance of the outputs that are real or complex."""
    pairs = zip(operation.shapes, relevance, strict=True)
    return [r for shape, r in pairs if is_inexact(shape)]


def _of_operands(
    operation: Operation, operands: Sequence[ArrayLike | None], indices: Sequence[int]
) -> Callable[..., list[Array]]:
    """The real or complex outputs of an operation as a function of some of its operands."""

    def run(*values: Array) -> list[Array]:
        replaced = dict(zip(indices, values, strict=True))
        given = [replaced.get(n, operand) for n, operand in enumerate(operands)]
        return [out for out in operation.apply(*given) if is_inexact(out)]

    return run


def _vjp(
    operation: Operation,
    operands: list[Array],
    indices: Sequence[int],
    vector: Callable[[list[Array]], list[Array]],
) -> list[Array]:
    """The vector-Jacobian product for some operands, in single precision at least.

    `vector` makes the vector from the real or complex outputs, one array for each.
    """
    try:
        function = _of_operands(operation, operands, indices)
        out, pull = jax.vjp(function, *(operands[n] for n in indices))
        return [widened(r) for r in pull(vector(out))]
    except (ValueError, TypeError, NotImplementedError) as error:
        got = f"{operation.primitive} ({operation.name or 'outside of any module'}): {error}"
        raise ValueError(message("fn", "operations that have a gradient", got)) from error


def expect_relevance(name: str, found: Array, like: Array) -> Array:
    """Return the result of a rule; refuse anything but an array like the inputs."""
    expected = f"relevance of shape {like.shape}"
    if not (hasattr(found, "shape") and is_inexact(found)):
        raise TypeError(message(name, expected, type(found).__name__))
    if found.shape != like.shape:
        raise ValueError(message(name, expected, f"shape {found.shape}"))
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
