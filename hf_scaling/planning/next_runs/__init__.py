"""The runs to measure next: candidates, their costs, the expected gain of each, and the selection for a budget."""

from hf_scaling.planning.next_runs.suggest import suggest_runs

__all__ = ["suggest_runs"]
