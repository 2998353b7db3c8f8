"""From fitted laws to decisions: what a budget buys best, what pre-training is worth, which runs to measure next."""

from hf_scaling.planning.budget import Plan, plan
from hf_scaling.planning.next_runs import suggest_runs
from hf_scaling.planning.transfer import TransferGaps, transfer_gaps

__all__ = ["Plan", "TransferGaps", "plan", "suggest_runs", "transfer_gaps"]
