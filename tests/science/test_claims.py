"""The claims and gates of the chosen experiment (--experiment)."""

from persona_lib.plugin.science import test_claim, test_gate

__all__ = ["test_claim", "test_gate"]
