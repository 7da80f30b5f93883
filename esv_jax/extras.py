"""Imports on first use: optional dependencies, and the public names of packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import `module`, or raise `ImportError` naming the extra that brings it.

    Args:
      module: dotted name, e.g. "h5py".
      extra: extra of this package whose installation provides it, e.g. "files".
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed here and could not be imported ({error}). "
            f"Install it with: pip install 'esv-jax[{extra}]'"
        ) from error


def lazy(
    package: str, table: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Public names of a package that are imported on first use.

        __getattr__, __dir__, __all__ = lazy(__name__, {"data": (), "heads": ("HeadStack",)})

    Type checkers need the same names in an `if TYPE_CHECKING:` block, as `import X as X`.

    Args:
      package: its dotted name.
      table: submodules with the public names that each provides; with none, the submodule itself.
    Returns:
      `__getattr__`, `__dir__` and `__all__` of the package.
    """
    module_of = {name: module for module, names in table.items() for name in names or (module,)}

    def getattr_(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: Any = importlib.import_module(f"{package}.{module_of[name]}")
        if table[module_of[name]]:
            value = getattr(value, name)
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    return getattr_, lambda: sorted(module_of), sorted(module_of)
