"""Panels: what is shown beside the verdicts, each gated by itself.

A panel reads completions, judgements or hidden states, and returns JSON data. One that
is not to be read says so and touches nothing else.
"""
