"""Many videos: batches by length, devices, hosts, and results that a killed run does not lose."""

from esv_jax.sweeps.hosts import connect
from esv_jax.sweeps.run import Progress, SweepReport, sweep

__all__ = ["Progress", "SweepReport", "connect", "sweep"]
