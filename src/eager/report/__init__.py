"""One self-contained HTML page and its plots over result folders."""

from eager.report.build import Report, write_report

__all__ = ["Report", "write_report"]
