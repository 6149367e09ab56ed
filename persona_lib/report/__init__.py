"""Reports: what a run says, written for a terminal, a page or a file.

Every number is read from verdicts, gate results and the summary; none is computed here.
"""
