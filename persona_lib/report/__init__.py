"""Reports: verdicts for a terminal, a page and a file.

Every number is read from verdicts, gate results and the summary; none is computed here.
"""
