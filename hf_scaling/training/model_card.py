"""The model card of a run: what it is, how it was trained, what it scores, and what its scores do not show."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling import files, hub
from hf_scaling.hub.cards import CITATION, markdown_table, render_card
from hf_scaling.tasks import Task
from hf_scaling.text import format_percent

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

# Columns that the card gives in its text rather than in its table.
_NOT_IN_TABLE = ("versions", "schema_version", "created_at", "classes", "class_errors")
_NORMAL_95 = 1.96


def write_card(folder: Path, task: Task, row: Mapping[str, Any], overlap: str, averaging: str | None = None) -> None:
    """Write README.md into a run's folder.

    Args:
        folder: The run's folder.
        task: Names the template and the unit.
        row: The run's row.
        overlap: How many of the evaluation examples were trained on, as words. The card names its own model
            PATH_OR_HUB_ID, which a push replaces.
        averaging: `tail:SHARE` or `ema:DECAY`; None where the weights are the last or the best.
    """
    # Half the width of the 95 % interval of the error that the number of evaluation examples leaves.
    margin = _NORMAL_95 * math.sqrt(row["error"] * (1 - row["error"]) / row["n_eval"])
    summary, is_new = f"A model of {row['n_params']:,} parameters", row["n_pretrain"] == 0
    if not is_new:
        summary += f", pretrained on {_amount(task, row, 'n_pretrain', 'upstream')}"
    if row["arm"] == "distilled":
        summary += " with distillation"
    if is_new:
        summary += f", trained from random weights on {_amount(task, row, 'n_finetune', 'downstream')}"
    elif row["stage"] == "finetune":
        summary += f", then fine-tuned on {_amount(task, row, 'n_finetune', 'downstream')}"
    limits = (
        f"One seed ({row['seed']}): the card does not show how much seeds differ.",
        f"Evaluated on `{_evaluated(row)}` alone: nothing is known about other data, about groups of people in it, or "
        "about adversarial inputs.",
        f"Overlap: of the evaluation {task.data}, {overlap}.",
        "Trained with hyperparameters that all sizes of a study share, so that they compare, not with the best for "
        "its size.",
    )
    table = [(name, value) for name, value in row.items() if value is not None and name not in _NOT_IN_TABLE]
    values = {
        "title": _title(row),
        "summary": f"{summary}. It is one run of a scaling study with hf_scaling.",
        "data": _evaluated(row),
        "eval_split": row["eval_split"],
        "error": f"{row['error']:.4f}",
        "margin": f"{margin:.4f}",
        "loss": f"{row['loss']:.4f}",
        "n_eval": f"{row['n_eval']:,}",
        "training": _training(task, row, averaging),
        "limits": "\n".join(f"- {line}" for line in limits),
        "table": markdown_table(("column", "value"), table),
        "citation": CITATION,
        "versions": ", ".join(f"{name} {version}" for name, version in json.loads(row["versions"]).items()),
    }
    files.write_text(folder / "README.md", render_card(task.card, values, _metadata(task, row)))


def _title(row: Mapping[str, Any]) -> str:
    name = f"{row['model']}, {row['arm']}" + (f", on {row['upstream']}" if row["upstream"] else "")
    return f"{name}, fine-tuned on {row['downstream']}" if row["downstream"] else name


def _evaluated(row: Mapping[str, Any]) -> str:
    """The data set of the evaluation."""
    return row["downstream"] or row["upstream"]


def _amount(task: Task, row: Mapping[str, Any], count: str, source: str) -> str:
    """ "2,000 images of `glyphs`"; either may be unknown for a checkpoint that hf_scaling did not train."""
    n = "an unknown number of" if row[count] is None else f"{row[count]:,}"
    of = "unknown data" if row[source] is None else f"`{row[source]}`"
    return f"{n} {task.unit}{'' if row[count] == 1 else 's'} of {of}"


def _training(task: Task, row: Mapping[str, Any], averaging: str | None) -> str:
    """Data, arm, hyperparameters, averaging and cost, as a list."""
    drawn = f"drawn by seed {row['seed']}; with the same seed, a larger subset contains a smaller one"
    if row["stage"] == "finetune":
        pretrained = f"`{row['parent']}`, pretrained on {_amount(task, row, 'n_pretrain', 'upstream')}"
        lines = [
            f"Initial weights: {'random, without pre-training' if row['n_pretrain'] == 0 else pretrained}.",
            f"Fine-tuning data: {_amount(task, row, 'n_finetune', 'downstream')}, {drawn}.",
        ]
    else:
        lines = [f"Pretraining data: {_amount(task, row, 'n_pretrain', 'upstream')}, {drawn}."]
    if row["arm"] == "distilled":
        size = "" if row["teacher_n_params"] is None else f" ({row['teacher_n_params']:,} parameters)"
        arm = f"Arm: distilled, from `{row['teacher']}`{size}; {row['distillation']}."
    else:
        arm = "Arm: plain, without a teacher."
    if row["teacher_error"] is not None:
        arm += f" On the same evaluation examples the teacher's error is {row['teacher_error']:.4f}, and the two agree"
        arm += f" on {format_percent(row['agreement'], 3)}."
    teacher = f", and {row['teacher_flops']:.3g} for the teacher's predictions" if row["teacher_flops"] else ""
    lines += [
        arm,
        f"Hyperparameters: recipe `{row['recipe']}` in {row['precision']}; {row['samples_seen']:,} {task.unit}s seen.",
        *([f"Weights: averaged over the steps, `{averaging}`."] if averaging else []),
        f"Cost: {row['train_flops']:.3g} FLOPs forward and backward{teacher}; {row['seconds']:,.0f} s on "
        f"{row['device']}. Energy was not measured.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _metadata(task: Task, row: Mapping[str, Any]) -> "ModelCardData":
    """The head that the Hub reads: license, library, data sets, origin and scores."""
    from huggingface_hub import EvalResult, ModelCardData

    data = _evaluated(row)
    evaluation = {
        "task_type": task.tag,
        "dataset_name": data,
        # The Hub takes only the id of a data set here, or letters, digits, dots and hyphens.
        "dataset_type": data if hub.is_repo_id(data) else re.sub(r"[^\w.-]+", "-", data).strip("-."),
        "dataset_split": row["eval_split"],
    }
    accuracy = {"metric_type": "accuracy", "metric_value": round(1 - row["error"], 6), "metric_name": "top-1 accuracy"}
    loss = {
        "metric_type": "loss",
        "metric_value": round(row["loss"], 6),
        "metric_name": f"cross-entropy, nats per {task.unit}",
    }
    sets = [row[name] for name in ("upstream", "downstream") if row[name] and hub.is_repo_id(row[name])]
    parent, teacher = ((row[column] or "").partition("@")[0] for column in ("parent", "teacher"))
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=task.tag,
        tags=["hf_scaling", "scaling-laws", task.tag, row["arm"]],
        metrics=["accuracy"],
        datasets=list(dict.fromkeys(sets)) or None,
        base_model=parent if hub.is_repo_id(parent) else None,
        teacher_model=teacher if hub.is_repo_id(teacher) else None,
        model_name=_title(row),
        eval_results=[EvalResult(**evaluation, **scores) for scores in (accuracy, loss)],
    )
