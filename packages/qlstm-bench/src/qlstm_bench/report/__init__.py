"""Comparing runs: a table, figures, and one HTML file that holds them."""

from qlstm_bench.report.collect import Record, collect
from qlstm_bench.report.html import write_html
from qlstm_bench.report.table import print_table, results_frame

__all__ = ["Record", "collect", "print_table", "results_frame", "write_html"]
