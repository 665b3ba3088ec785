"""Comparing runs: tables, figures, verdicts on claims, and one HTML file that holds them."""

from qlstm_bench.report.html import write_html
from qlstm_bench.report.published import published_frame
from qlstm_bench.report.records import Record, collect
from qlstm_bench.report.summary import summary_frame
from qlstm_bench.report.table import (
    print_claims,
    print_table,
    results_frame,
    to_csv,
    to_latex,
    to_markdown,
)
from qlstm_bench.report.verdicts import Verdict, claims_frame, decide_claims

__all__ = [
    "Record", "Verdict", "claims_frame", "collect", "decide_claims", "print_claims", "print_table",
    "published_frame", "results_frame", "summary_frame", "to_csv", "to_latex", "to_markdown", "write_html",
]  # fmt: skip
