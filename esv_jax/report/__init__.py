"""Results as one self-contained HTML page that opens offline, in any browser."""

from esv_jax.report.page import write_report

__all__ = ["write_report"]
