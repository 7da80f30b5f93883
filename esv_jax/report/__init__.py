"""Results as one self-contained HTML page that opens offline, in any browser.

write_report        a folder or file of results as one HTML file
Report              a summary of what was written
"""

from esv_jax.report.page import Report, write_report

__all__ = ["Report", "write_report"]
