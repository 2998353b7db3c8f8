"""From fitted laws to decisions: what a budget buys best, what pre-training is worth, which runs to measure next."""

from hf_scaling.planning.budget import Plan, plan

__all__ = ["Plan", "plan"]
