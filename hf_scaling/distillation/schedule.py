"""How the teacher's weight changes along a training run."""

import math

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

SCHEDULES = ("constant", "linear", "cosine", "until_passed")


def alpha_at(schedule: str, alpha: float, progress: float) -> float:
    """The teacher's weight when the share `progress` (0 to 1) of the training steps is done.

    constant and until_passed: `alpha`; linear and cosine: from `alpha` down to 0 at the end (the teacher's weight
    decays as in knowledge inheritance, Qin et al. 2022).
    """
    if schedule == "linear":
        return alpha * (1 - progress)
    if schedule == "cosine":
        return alpha * 0.5 * (1 + math.cos(math.pi * progress))
    return alpha


class UntilPassed(TrainerCallback, ExportableState):
    """Remembers that the student has passed its teacher on the validation part, across checkpoints.

    Attributes:
        passed: Whether an evaluation has found the student's loss below its teacher's; never taken back.
        teacher_loss: The teacher's cross-entropy on the validation part, once it is known.
    """

    def __init__(self):
        self.passed = False
        self.teacher_loss: float | None = None

    def compare(self, student_loss: float) -> None:
        """Note whether the student is now ahead."""
        self.passed = self.passed or student_loss < self.teacher_loss

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"passed": self.passed, "teacher_loss": self.teacher_loss}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Take the state over from the checkpoint resumed.

        The Trainer itself does so only with `restore_callback_states_from_checkpoint`, and forgetting it would
        start the teacher again.
        """
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.passed = saved["attributes"]["passed"]
        self.teacher_loss = saved["attributes"]["teacher_loss"]
