"""Which runs to measure next: the most knowledge for a budget."""

from hf_scaling.planning.next_runs.suggest import suggest_runs

__all__ = ["suggest_runs"]
