"""One run to one checkpoint and one row: pretrain, fine-tune, evaluate."""

from hf_scaling.training.configuration import (
    FinetuneFields,
    PretrainFields,
    parse_fields,
    parse_finetune,
    parse_pretrain,
)
from hf_scaling.training.ending import announce
from hf_scaling.training.finetune import finetune
from hf_scaling.training.pretrain import pretrain
from hf_scaling.training.warm import Warm

__all__ = [
    "FinetuneFields",
    "PretrainFields",
    "Warm",
    "announce",
    "finetune",
    "parse_fields",
    "parse_finetune",
    "parse_pretrain",
    "pretrain",
]
