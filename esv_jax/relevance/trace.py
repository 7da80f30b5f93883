"""A JAX function as one flat list of operations: calls unfolded, loops unrolled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
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
    "composite": "jaxpr",
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
    """Operations in the order they run; value 0 is the input, `output` the result.

    `depends` are the numbers of the values that are computed from the input, whatever they are.
    """

    operations: tuple[Operation, ...]
    output: Operand
    depends: frozenset[int]


def trace(fn: Callable[[Array], Array], x: Any, whole: Sequence[str] = ()) -> Trace:
    """The operations of fn(x), by tracing it; nothing is computed.

    Loops with a known number of steps (`lax.scan`, and `lax.fori_loop` of Python ints) are
    unrolled where they depend on x, so that they are the same operations as a Python loop. All
    branches of a `lax.cond` are there, each on its operands where it is taken and on zeros
    elsewhere.

    Args:
      fn: a function of one array. x: an array, or its shape and dtype.
      whole: names of functions under `jax.jit` that are kept as one operation each.
    """
    with jax.default_matmul_precision("highest"):  # accelerators shorten float32 products
        closed = jax.make_jaxpr(fn)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    unfolding = _Unfolding(frozenset(whole))
    (output,) = unfolding.unfold(closed.jaxpr, closed.consts, [0], "")
    return Trace(tuple(unfolding.operations), output, frozenset(unfolding.depends))


class _Unfolding:
    """Collects operations; each value gets a number of its own, also in functions called twice."""

    def __init__(self, whole: frozenset[str]) -> None:
        self.whole = whole
        self.operations: list[Operation] = []
        self.n_values = 1
        self.depends = {0}

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
            elif primitive in _CONTROL and any(map(self._depends, operands)):
                results = _CONTROL[primitive](self, eqn, operands, name)
            else:
                avals = [v.aval for v in eqn.outvars]
                results = self._add(
                    primitive,
                    name,
                    operands,
                    eqn.invars,
                    avals,
                    _apply(eqn),
                    eqn.params,
                    called if kept else "",
                )
            known |= zip(eqn.outvars, results, strict=True)
        return [operand(atom) for atom in jaxpr.outvars]

    def _add(
        self,
        primitive: str,
        name: str,
        operands: Sequence[Operand],
        atoms: Sequence[Any],
        avals: Sequence[Any],
        apply: Callable[..., list[Any]],
        params: Mapping[str, Any] | None = None,
        called: str = "",
    ) -> list[Operand]:
        """The numbers of the values that one more operation makes, of shapes `avals`."""
        places = range(self.n_values, self.n_values + len(avals))
        self.n_values = places.stop
        if any(map(self._depends, operands)):
            self.depends.update(places)
        self.operations.append(
            Operation(
                primitive=primitive,
                name=name,
                inputs=tuple(operands),
                outputs=tuple(places),
                shapes=tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals),
                input_shapes=tuple(tuple(atom.aval.shape) for atom in atoms),
                function=called,
                apply=apply,
                params=dict(params or {}),
            )
        )
        return list(places)

    def _depends(self, operand: Operand) -> bool:
        return isinstance(operand, int) and operand in self.depends

    def unroll(self, eqn: Any, operands: Sequence[Operand], scope: str) -> list[Operand]:
        """The steps of a scan, one after the other."""
        p = eqn.params
        inner, constants = _content(p["jaxpr"])
        n_consts, n_carry = _scan_sizes(p)
        length = p["length"]
        first = n_consts + n_carry
        consts, carry = list(operands[:n_consts]), list(operands[n_consts:first])
        rows = [
            self._add("split", scope, [xs], [atom], [var.aval] * length, _unstack)
            for xs, atom, var in zip(
                operands[first:], eqn.invars[first:], inner.invars[first:], strict=True
            )
        ]
        ys: list[list[Operand]] = [[] for _ in eqn.outvars[n_carry:]]
        steps = range(length)
        for step in reversed(steps) if p["reverse"] else steps:
            operands = [*consts, *carry, *(row[step] for row in rows)]
            out = self.unfold(inner, constants, operands, scope)
            carry = out[:n_carry]
            for y, value in zip(ys, out[n_carry:], strict=True):
                y.append(value)
        results = carry
        inner_vars, outer_vars = inner.outvars[n_carry:], eqn.outvars[n_carry:]
        for y, var, outer in zip(ys, inner_vars, outer_vars, strict=True):
            y = y[::-1] if p["reverse"] else y
            if length == 0:
                results = [*results, Constant(jnp.zeros(outer.aval.shape, outer.aval.dtype))]
            else:
                results += self._add("concatenate", scope, y, [var] * length, [outer.aval], _stack)
        return results

    def choose(self, eqn: Any, operands: Sequence[Operand], scope: str) -> list[Operand]:
        """The branches of a cond, and the results of the one that is taken."""
        (index, *rest), (index_atom, *atoms) = operands, eqn.invars
        found = []
        for k, branch in enumerate(eqn.params["branches"]):
            inner, constants = _content(branch)
            given = list(rest)
            for place, (operand, atom) in enumerate(zip(rest, atoms, strict=True)):
                if self._depends(operand) and jnp.issubdtype(atom.aval.dtype, jnp.inexact):
                    (given[place],) = self._add(
                        "where_taken",
                        scope,
                        [index, operand],
                        [index_atom, atom],
                        [atom.aval],
                        _where_taken(k),
                    )
            found.append(self.unfold(inner, constants, given, scope))
        results: list[Operand] = []
        for cases, var in zip(zip(*found, strict=True), eqn.outvars, strict=True):
            shapes = [index_atom, *[var] * len(cases)]
            results += self._add("select_n", scope, [index, *cases], shapes, [var.aval], _select)
        return results


_CONTROL = {"scan": _Unfolding.unroll, "cond": _Unfolding.choose}


def _scan_sizes(params: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of constants and of carried values among the inputs of a scan."""
    if "ft_in" in params:  # JAX 0.12
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def _unstack(rows: Any) -> list[Any]:
    return [lax.index_in_dim(rows, k, keepdims=False) for k in range(rows.shape[0])]


def _stack(*rows: Any) -> list[Any]:
    return [jnp.stack(rows)]


def _select(index: Any, *cases: Any) -> list[Any]:
    return [lax.select_n(jnp.asarray(index, jnp.int32), *cases)]


def _where_taken(branch: int) -> Callable[..., list[Any]]:
    """A value where the branch is taken, else zeros: what it would make of it may be NaN."""
    return lambda index, value: [jnp.where(index == branch, value, jnp.zeros_like(value))]


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
