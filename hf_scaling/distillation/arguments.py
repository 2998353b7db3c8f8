"""The settings of distillation, on top of `TrainingArguments`."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_scaling.distillation.loss import KINDS
from hf_scaling.distillation.schedule import SCHEDULES
from hf_scaling.errors import InputError


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` and what a teacher adds to them; without a teacher the four own fields are at rest.

    `ddp_find_unused_parameters` is False where it is left open: every weight of a classifier takes part in its
    answer, and looking for those that do not costs a walk over the graph in each step.
    """

    alpha: float = field(default=0.5, metadata={"help": "Weight of the teacher in the loss, 0 to 1."})
    temperature: float = field(
        default=2.0, metadata={"help": "Temperature that softens both answers before they are compared (kind soft)."}
    )
    kind: str = field(
        default="soft",
        metadata={
            "help": "soft: KL divergence to the teacher's probabilities; hard: cross-entropy to its first choice.",
            "choices": list(KINDS),
        },
    )
    alpha_schedule: str = field(
        default="constant",
        metadata={
            "help": "How alpha goes along the run: constant; linear or cosine down to 0; until_passed: until an "
            "evaluation finds the student's loss below its teacher's, then 0 for good.",
            "choices": list(SCHEDULES),
        },
    )

    def __post_init__(self):
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha {self.alpha}: must lie between 0 (labels alone) and 1 (teacher alone)")
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: must be above 0")
        for name, known in (("kind", KINDS), ("alpha_schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)}: must be one of {', '.join(known)}")
