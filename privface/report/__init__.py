"""Turns an audit into one HTML file that a privacy officer can read and forward."""

from typing import TYPE_CHECKING

from privface.lazy import on_demand

if TYPE_CHECKING:
    from privface.report.figures import det_figure, leakage_figure, tradeoff_figure
    from privface.report.html import write_report
    from privface.report.sheet import contact_sheet
else:
    __getattr__, __dir__ = on_demand(__name__, __file__)

__all__ = ["contact_sheet", "det_figure", "leakage_figure", "tradeoff_figure", "write_report"]
