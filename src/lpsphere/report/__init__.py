"""Plots and the one-file HTML report of a training run.

`write_report` turns a run's folder into one self-contained page; `read_run` reads the folder into a frozen
`Run`; `lpsphere.report.plots` draws the single figures as matplotlib `Figure` objects.
"""

from lpsphere.report.html import render_report, write_report
from lpsphere.report.run import Run, read_run

__all__ = ["Run", "read_run", "render_report", "write_report"]
