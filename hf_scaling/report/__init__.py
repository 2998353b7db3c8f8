"""The report of a study: one page with the answers first, then figures, laws, notes, and how it was measured."""

from hf_scaling.report.findings import Findings, collect_findings
from hf_scaling.report.page import write_report

__all__ = ["Findings", "collect_findings", "write_report"]
