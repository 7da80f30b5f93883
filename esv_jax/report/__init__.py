"""Results as one page for people: opens offline, in any browser, and asks nothing of a network.

write_report        a folder or file of results as one HTML file
Report              what was written: how many videos are on the page, and what it lacks
"""

from esv_jax.report.write import Report, write_report

__all__ = ["Report", "write_report"]
