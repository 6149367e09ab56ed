"""Reports: what a run says, written for a terminal, a page or a file.

Every number comes from verdicts, gate results and the summary of the evidence;
nothing is computed while a report is written.
"""

from persona_lib.errors import clean
from persona_lib.report.terminal import verdict_table
from persona_lib.verdict.summary import summary

__all__ = ["clean", "summary", "verdict_table"]
