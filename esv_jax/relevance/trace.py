"""A JAX function as one flat list of operations, calls within it unfolded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.extend import core

# Calls that only name or transform what they hold; their content is what counts.
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """An operand whose value is known: a literal, or an array that the function closed over."""

    value: Any


Operand = int | Constant
"""The number of a value, or a constant."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One primitive applied to operands.

    Attributes:
      primitive: its name. name: the modules or scopes it stands in, e.g. "TinyCNN/conv1".
      inputs: its operands. outputs: numbers of the values it makes.
      shapes: of the outputs, with dtype. input_shapes: of the operands.
      function: the name of a called function that was kept whole, else "".
      apply: operand values -> list of output values; keywords replace parameters.
      params: the primitive's parameters.
    """

    primitive: str
    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Any, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    function: str
    apply: Callable[..., list[Any]]
    params: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trace:
    """Operations in the order they run; value 0 is the input, `output` the result."""

    operations: tuple[Operation, ...]
    output: Operand
    n_values: int


def trace(fn: Callable[[Array], Array], x: Any, whole: Sequence[str] = ()) -> Trace:
    """The operations of fn(x), by tracing it; nothing is computed.

    Args:
      fn: a function of one array. x: an array, or its shape and dtype.
      whole: names of functions under `jax.jit` that are kept as one operation each.
    """
    with jax.default_matmul_precision("highest"):  # accelerators shorten float32 products
        closed = jax.make_jaxpr(fn)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    unfolding = _Unfolding(frozenset(whole))
    (output,) = unfolding.unfold(closed.jaxpr, closed.consts, [0], "")
    return Trace(tuple(unfolding.operations), output, unfolding.n_values)


class _Unfolding:
    """Collects operations; each value gets a number of its own, also in functions called twice."""

    def __init__(self, whole: frozenset[str]) -> None:
        self.whole = whole
        self.operations: list[Operation] = []
        self.n_values = 1

    def unfold(
        self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Operand], scope: str
    ) -> list[Operand]:
        known: dict[Any, Operand] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {v: Constant(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def operand(atom: Any) -> Operand:
            return Constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            name = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
            operands = [operand(atom) for atom in eqn.invars]
            primitive, called = eqn.primitive.name, str(eqn.params.get("name", ""))
            kept = called in self.whole
            if primitive in _INLINED and not kept:
                inner, constants = _content(eqn.params[_INLINED[primitive]])
                results = self.unfold(inner, constants, operands, name)
            else:
                results = list(self._add(eqn, name, operands, called if kept else ""))
            known |= zip(eqn.outvars, results, strict=True)
        return [operand(atom) for atom in jaxpr.outvars]

    def _add(self, eqn: Any, name: str, operands: list[Operand], called: str) -> range:
        places = range(self.n_values, self.n_values + len(eqn.outvars))
        self.n_values = places.stop
        self.operations.append(
            Operation(
                primitive=eqn.primitive.name,
                name=name,
                inputs=tuple(operands),
                outputs=tuple(places),
                shapes=tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.outvars),
                input_shapes=tuple(tuple(atom.aval.shape) for atom in eqn.invars),
                function=called,
                apply=_apply(eqn),
                params=dict(eqn.params),
            )
        )
        return places


def _content(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr of a call and its constants, closed or not."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def _apply(eqn: Any) -> Callable[..., list[Any]]:
    """The primitive with its parameters, some of them changed, as a function of its operands."""
    primitive, multiple = eqn.primitive, eqn.primitive.multiple_results
    if primitive.name in _INLINED:
        inner, constants = _content(eqn.params[_INLINED[primitive.name]])
        return core.jaxpr_as_fun(core.ClosedJaxpr(inner, list(constants)))

    def apply(*values: Any, **changed: Any) -> list[Any]:
        out = primitive.bind(*values, **eqn.params | changed)
        return list(out) if multiple else [out]

    return apply
