"""From fitted laws to decisions: what a budget buys best, what pre-training is worth, which runs to measure next."""

from hf_scaling.planning.budget import Plan, plan
from hf_scaling.planning.transfer import TransferGaps, transfer_gaps

__all__ = ["Plan", "TransferGaps", "plan", "transfer_gaps"]
