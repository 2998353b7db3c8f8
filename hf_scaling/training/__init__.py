"""Training: fields to a resolved run, a resolved run to a checkpoint and a row."""

from hf_scaling.training.config import (
    FinetuneFields,
    PretrainFields,
    build_fields,
    parse_fields,
    parse_finetune,
    parse_pretrain,
)
from hf_scaling.training.process_cache import GuessedSource, ProcessCache
from hf_scaling.training.resolve import ResolvedRun, resolve, resolve_runs
from hf_scaling.training.run import print_result, train, validate

__all__ = [
    "FinetuneFields",
    "GuessedSource",
    "PretrainFields",
    "ProcessCache",
    "ResolvedRun",
    "build_fields",
    "parse_fields",
    "parse_finetune",
    "parse_pretrain",
    "print_result",
    "resolve",
    "resolve_runs",
    "train",
    "validate",
]
