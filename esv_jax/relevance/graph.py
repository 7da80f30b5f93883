"""Tracing of a JAX function into a flat graph of operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core
from jax.typing import ArrayLike

# Calls that name or transform their content without changing its values: they are inlined.
_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "composite"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """An operand with a known value: a literal, or an array from the closure of the function."""

    value: ArrayLike


Operand: TypeAlias = int | Constant
"""The number of a value, or a constant."""
Spec: TypeAlias = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One primitive applied to operands, which computes the values numbered `outputs`.

    Attributes:
      name: the modules or scopes around it, e.g. "TinyCNN/conv1".
      shapes: of the outputs, with dtype. input_shapes: of the operands.
      function: the name of a called function that is not inlined, else "".
      apply: operand values -> list of output values; keywords replace parameters.
    """

    primitive: str
    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Spec, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    function: str
    apply: Callable[..., list[Array]]
    params: Mapping[str, Any]


class Graph:
    """The operations of a function in the order of execution; value 0 is the input.

    For each value: the operation that computes it (`makers`), its shape and dtype, and whether it
    is computed from the input (`depends`).
    """

    def __init__(self, x: Spec) -> None:
        self.operations: list[Operation] = []
        self.output: Operand = 0
        self.makers: dict[int, Operation] = {}
        self.shapes: dict[int, Spec] = {0: x}
        self.depends = {0}

    def add(
        self,
        primitive: str,
        name: str,
        inputs: Sequence[Operand],
        variables: Iterable[Any],
        apply: Callable[..., list[Array]],
        params: Mapping[str, Any] | None = None,
        function: str = "",
    ) -> list[Operand]:
        """Append an operation; returns the numbers of its outputs, which are like the variables."""
        specs = _specs(variables)
        outputs = range(len(self.shapes), len(self.shapes) + len(specs))
        if any(map(self.is_dependent, inputs)):
            self.depends.update(outputs)
        operation = Operation(
            primitive=primitive,
            name=name,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            shapes=tuple(specs),
            input_shapes=tuple(map(self.shape, inputs)),
            function=function,
            apply=apply,
            params=params or {},
        )
        self.operations.append(operation)
        self.shapes |= zip(outputs, specs, strict=True)
        self.makers |= dict.fromkeys(outputs, operation)
        return list(outputs)

    def is_dependent(self, operand: Operand) -> bool:
        """True if a value is computed from the input."""
        return isinstance(operand, int) and operand in self.depends

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """The shape of an operand."""
        if isinstance(operand, Constant):
            return tuple(np.shape(operand.value))
        return tuple(self.shapes[operand].shape)

    def maker(self, operand: Operand, *primitives: str) -> Operation | None:
        """The operation that computes a value if it is one of these primitives, else None."""
        operation = self.makers.get(operand) if isinstance(operand, int) else None
        return operation if operation is not None and operation.primitive in primitives else None

    def sources(self, operation: Operation) -> list[int]:
        """The real or complex operands that are computed from the input."""
        return [
            i
            for i in operation.inputs
            if isinstance(i, int) and i in self.depends and is_inexact(self.shapes[i])
        ]

    def trace_back(self, operand: Operand, through: Set[str]) -> Operand:
        """Follow a value back through operations of these primitives that have one source."""
        while (operation := self.maker(operand, *through)) is not None:
            sources = self.sources(operation)
            if len(sources) != 1:
                break
            operand = sources[0]
        return operand


def evaluate(
    operations: Iterable[Operation],
    values: dict[int, Array],
    value: Callable[[Operand], ArrayLike],
) -> None:
    """Add the outputs of operations to `values`; operands that are not in it come from `value`."""
    for operation in operations:
        operands = [
            values[i] if isinstance(i, int) and i in values else value(i) for i in operation.inputs
        ]
        values |= zip(operation.outputs, operation.apply(*operands), strict=True)


def trace(fn: Callable[[Array], Array], x: Array | Spec, whole: Sequence[str] = ()) -> Graph:
    """The graph of fn(x), by tracing; nothing is computed.

    Calls are inlined, but for functions under `jax.jit` with names in `whole`. Loops with a known
    number of steps (`lax.scan`, and `lax.fori_loop` of Python ints) are unrolled where they depend
    on x. All branches of a `lax.cond` are included; the operands of those not taken are zeros.
    """
    spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
    with jax.default_matmul_precision("highest"):  # accelerators shorten float32 products
        closed = jax.make_jaxpr(fn)(spec)
    graph = Graph(spec)
    (graph.output,) = _Tracing(graph, frozenset(whole)).inline(closed, [0], "")
    return graph


@dataclasses.dataclass(frozen=True)
class _Tracing:
    """Addition of jaxprs to a graph; a jaxpr that is called twice is added twice."""

    graph: Graph
    whole: frozenset[str]

    def inline(self, jaxpr: Any, inputs: Sequence[Operand], scope: str) -> list[Operand]:
        """Add the equations of a jaxpr; returns its outputs."""
        jaxpr, constants = _open(jaxpr)
        known: dict[Any, Operand] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {v: Constant(c) for v, c in zip(jaxpr.constvars, constants, strict=True)}

        def operand(atom: core.Var | core.Literal) -> Operand:
            return Constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            name = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
            operands = [operand(atom) for atom in eqn.invars]
            primitive, called = eqn.primitive.name, str(eqn.params.get("name", ""))
            if primitive in _CALLS and called not in self.whole:
                results = self.inline(_called(eqn), operands, name)
            elif primitive in _CONTROL and any(map(self.graph.is_dependent, operands)):
                results = _CONTROL[primitive](self, eqn, operands, name)
            else:
                function = called if called in self.whole else ""
                results = self.graph.add(
                    primitive, name, operands, eqn.outvars, _apply(eqn), eqn.params, function
                )
            known |= zip(eqn.outvars, results, strict=True)
        return [operand(atom) for atom in jaxpr.outvars]

    def unroll(self, eqn: core.JaxprEqn, operands: Sequence[Operand], scope: str) -> list[Operand]:
        """Add the steps of a scan, one after the other."""
        p = eqn.params
        inner, _ = _open(p["jaxpr"])
        if "ft_in" in p:  # JAX 0.12
            n_consts, n_carry = map(len, p["ft_in"].unpack()[:2])
        else:
            n_consts, n_carry = p["num_consts"], p["num_carry"]
        first = n_consts + n_carry
        consts, carry = list(operands[:n_consts]), list(operands[n_consts:first])
        rows = [
            self.graph.add("split", scope, [xs], [var] * p["length"], _unstack)
            for xs, var in zip(operands[first:], inner.invars[first:], strict=True)
        ]
        steps = range(p["length"])
        outs: list[list[Operand]] = []
        for step in reversed(steps) if p["reverse"] else steps:
            given = [*consts, *carry, *(row[step] for row in rows)]
            out = self.inline(p["jaxpr"], given, scope)
            carry = out[:n_carry]
            outs.append(out)
        results = carry
        for k, var in enumerate(eqn.outvars[n_carry:], n_carry):
            ys = [out[k] for out in (reversed(outs) if p["reverse"] else outs)]
            if ys:
                results += self.graph.add(
                    "concatenate", scope, ys, [var], lambda *rows: [jnp.stack(rows)]
                )
            else:
                (spec,) = _specs([var])
                results = [*results, Constant(jnp.zeros(spec.shape, spec.dtype))]
        return results

    def branch(self, eqn: core.JaxprEqn, operands: Sequence[Operand], scope: str) -> list[Operand]:
        """Add the branches of a cond, and the selection of the results of the one taken."""
        index, *rest = operands
        cases = []
        for k, branch in enumerate(eqn.params["branches"]):
            given = list(rest)
            for n, (operand, var) in enumerate(zip(rest, eqn.invars[1:], strict=True)):
                if self.graph.is_dependent(operand) and is_inexact(var.aval):
                    (given[n],) = self.graph.add(
                        "where_taken", scope, [index, operand], [var], _where_taken(k)
                    )
            cases.append(self.inline(branch, given, scope))
        results: list[Operand] = []
        for case, var in zip(zip(*cases, strict=True), eqn.outvars, strict=True):
            results += self.graph.add("select_n", scope, [index, *case], [var], _select)
        return results


_CONTROL = {"scan": _Tracing.unroll, "cond": _Tracing.branch}


def is_inexact(value: object) -> bool:
    """True if an array, or its shape and dtype, holds real or complex numbers."""
    return hasattr(value, "dtype") and bool(jnp.issubdtype(value.dtype, jnp.inexact))


def is_complex(value: object) -> bool:
    """True if an array, or its shape and dtype, holds complex numbers."""
    return hasattr(value, "dtype") and bool(jnp.issubdtype(value.dtype, jnp.complexfloating))


def _specs(variables: Iterable[Any]) -> list[Spec]:
    return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in variables]


def _unstack(rows: Array) -> list[Array]:
    return [lax.index_in_dim(rows, k, keepdims=False) for k in range(rows.shape[0])]


def _select(index: Array, *cases: Array) -> list[Array]:
    return [lax.select_n(jnp.asarray(index, jnp.int32), *cases)]


def _where_taken(branch: int) -> Callable[..., list[Array]]:
    """A value where the branch is taken, else zeros: the branch could make NaN of other values."""
    return lambda index, value: [jnp.where(index == branch, value, jnp.zeros_like(value))]


def _called(eqn: core.JaxprEqn) -> Any:
    """The jaxpr that a call holds, under a name that depends on the kind of call."""
    return next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)


def _open(jaxpr: Any) -> tuple[core.Jaxpr, Sequence[ArrayLike]]:
    """A jaxpr and its constants, from a closed or an open jaxpr."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def _apply(eqn: core.JaxprEqn) -> Callable[..., list[Array]]:
    """The primitive with its parameters as a function of its operands; keywords override them."""
    primitive = eqn.primitive
    if primitive.name in _CALLS:
        inner, constants = _open(_called(eqn))
        return core.jaxpr_as_fun(core.ClosedJaxpr(inner, list(constants)))

    def apply(*values: ArrayLike, **changed: Any) -> list[Array]:
        out = primitive.bind(*values, **eqn.params | changed)
        return list(out) if primitive.multiple_results else [out]

    return apply
