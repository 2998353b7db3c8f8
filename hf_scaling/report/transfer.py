"""The transfer gap of a part's fine-tuned runs: is more pre-training or are more labels what helps?"""

from dataclasses import dataclass

from hf_scaling.errors import InputError
from hf_scaling.planning import TransferGaps, transfer_gaps
from hf_scaling.report.asking import Asked
from hf_scaling.report.parts import Arm, Part, levels


@dataclass(frozen=True)
class Transfer:
    """The gap of one arm and target, or why there is none.

    Attributes:
        arm: The runs.
        target: The column.
        gaps: The gap and what pre-training was worth; None where no law could be fitted.
        problem: Why there is none; "" otherwise.
    """

    arm: Arm
    target: str
    gaps: TransferGaps | None = None
    problem: str = ""


def find_transfers(part: Part, target: str, asked: Asked) -> list[Transfer]:
    """One for each arm of a part whose runs vary n_pretrain and n_finetune."""
    return [_find(arm, target, part.stage, asked) for arm in part.arms if _has_both(arm)]


def _has_both(arm: Arm) -> bool:
    frame = arm.rows.to_pandas()
    return len(levels(frame, "n_pretrain")) > 1 and len(levels(frame, "n_finetune")) > 1


def _find(arm: Arm, target: str, stage: str | None, asked: Asked) -> Transfer:
    law = "transfer_gap_joint" if len(levels(arm.rows.to_pandas(), "n_params")) > 1 else "transfer_gap"
    settings = {name: value for name, value in asked.fitting.items() if name != "weights" or value is not None}
    try:
        gaps = transfer_gaps(arm.rows, target, law, asked.level, stage=stage, bootstrap=asked.bootstrap, **settings)
    except InputError as error:
        return Transfer(arm, target, problem=str(error))
    return Transfer(arm, target, gaps)
