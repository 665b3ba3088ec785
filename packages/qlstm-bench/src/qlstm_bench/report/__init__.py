"""Comparing runs: tables, figures, and one HTML file that holds them."""

from qlstm_bench.report.html import write_html
from qlstm_bench.report.records import Record, collect
from qlstm_bench.report.summary import summary_frame
from qlstm_bench.report.table import print_table, results_frame, to_csv, to_latex, to_markdown

__all__ = [
    "Record", "collect", "print_table", "results_frame", "summary_frame", "to_csv", "to_latex", "to_markdown",
    "write_html",
]  # fmt: skip
