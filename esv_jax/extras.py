"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
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
