"""One run to one checkpoint and one row: pretrain, fine-tune, evaluate."""

from hf_scaling.training.config import FinetuneFields, PretrainFields, parse_fields, parse_finetune, parse_pretrain
from hf_scaling.training.run import Warm, announce, finetune, pretrain

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
