"""Sweeps: explanation of many videos on all devices and hosts, continued after interruptions."""

from esv_jax.sweeps.hosts import connect
from esv_jax.sweeps.run import sweep

__all__ = ["connect", "sweep"]
