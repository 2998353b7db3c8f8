"""From fitted laws to decisions: what a budget buys best, what a target takes, which runs to measure next."""

from hf_scaling.planning.budget import Plan, plan
from hf_scaling.planning.need import Need, need
from hf_scaling.planning.next_runs import suggest_runs
from hf_scaling.planning.transfer import TransferGaps, transfer_gaps

__all__ = ["Need", "Plan", "TransferGaps", "need", "plan", "suggest_runs", "transfer_gaps"]
