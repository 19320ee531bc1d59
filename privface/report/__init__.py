"""Turns an audit into one HTML file that a privacy officer can read and forward."""

from privface.report.figures import det_figure, leakage_figure, tradeoff_figure
from privface.report.html import write_report
from privface.report.sheet import contact_sheet

__all__ = ["contact_sheet", "det_figure", "leakage_figure", "tradeoff_figure", "write_report"]
