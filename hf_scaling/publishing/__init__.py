"""Checkpoints, results, laws and whole studies to the Hub and back.

Nothing here loads torch: a checkpoint is pushed as the files that it consists of.
"""

from hf_scaling.publishing.pull import pull_study
from hf_scaling.publishing.push import PushAtEnd, kind_of, push_checkpoint, take_push
from hf_scaling.publishing.study import Outcome, push_study

__all__ = ["Outcome", "PushAtEnd", "kind_of", "pull_study", "push_checkpoint", "push_study", "take_push"]
