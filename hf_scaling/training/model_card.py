"""The model card of a run: what a reader of the checkpoint has to know, and what the Hub reads."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling import files, hub
from hf_scaling.hub.cards import CITATION, markdown_table, render_card
from hf_scaling.tasks import Task

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

# What the table of columns leaves to the text.
_ELSEWHERE = ("versions", "schema_version", "created_at")
_NORMAL_95 = 1.96


def write_card(folder: Path, task: Task, row: Mapping[str, Any], overlap: str) -> None:
    """Write README.md into `folder`; `overlap` says how much of the evaluation part was trained on.

    Where the card names its own place it says PATH_OR_HUB_ID, which a push replaces.
    """
    text = render_card(task.card, _values(task, row, overlap), _metadata(task, row))
    files.write_text(folder / "README.md", text)


def _values(task: Task, row: Mapping[str, Any], overlap: str) -> dict[str, Any]:
    known = [(name, value) for name, value in row.items() if value is not None and name not in _ELSEWHERE]
    return {
        "title": _title(row),
        "summary": _summary(task, row),
        "data": _evaluated(row),
        "eval_split": row["eval_split"],
        "error": f"{row['error']:.4f}",
        "doubt": f"{_doubt(row):.4f}",
        "loss": f"{row['loss']:.4f}",
        "n_eval": f"{row['n_eval']:,}",
        "training": _bullets(_training(task, row)),
        "limits": _bullets(_limits(task, row, overlap)),
        "table": markdown_table(("column", "value"), known),
        "citation": CITATION,
        "versions": ", ".join(f"{name} {version}" for name, version in json.loads(row["versions"]).items()),
    }


def _summary(task: Task, row: Mapping[str, Any]) -> str:
    """What it is, in two sentences."""
    made = f"A model of {row['n_params']:,} parameters, pretrained on {_data(task, row, 'n_pretrain', 'upstream')}"
    if row["arm"] == "distilled":
        made += " under a teacher"
    if row["stage"] == "finetune":
        made += f", then fine-tuned on {_data(task, row, 'n_finetune', 'downstream')}"
    return f"{made}. It is one point of a scaling study made with hf_scaling."


def _training(task: Task, row: Mapping[str, Any]) -> list[str]:
    """Data, arm, rule and cost."""
    drawn = f"drawn by seed {row['seed']}; with the same seed a smaller subset lies inside a larger one"
    if row["stage"] == "finetune":
        start = f"Started from: `{row['parent']}`, pretrained on {_data(task, row, 'n_pretrain', 'upstream')}."
        said = [start, f"Fine-tuning data: {_data(task, row, 'n_finetune', 'downstream')}, {drawn}."]
    else:
        said = [f"Pretraining data: {_data(task, row, 'n_pretrain', 'upstream')}, {drawn}."]
    teaching = f", and {row['teacher_flops']:.3g} for asking the teacher" if row["teacher_flops"] else ""
    return [
        *said,
        _arm(row),
        f"Rule: recipe `{row['recipe']}` in {row['precision']}; {row['samples_seen']:,} {task.unit}s seen.",
        f"Cost: {row['train_flops']:.3g} FLOPs forward and backward{teaching}; {row['seconds']:,.0f} s on "
        f"{row['device']}. Energy was not measured.",
    ]


def _data(task: Task, row: Mapping[str, Any], count: str, source: str) -> str:
    """How much of what: "2,000 images of `glyphs`"; also where a checkpoint of others does not say."""
    n = "an unknown number of" if row[count] is None else f"{row[count]:,}"
    of = "unknown data" if row[source] is None else f"`{row[source]}`"
    return f"{n} {task.unit}{'' if row[count] == 1 else 's'} of {of}"


def _arm(row: Mapping[str, Any]) -> str:
    if row["arm"] != "distilled":
        return "Arm: plain, without a teacher."
    size = "" if row["teacher_n_params"] is None else f" ({row['teacher_n_params']:,} parameters)"
    scores = ""
    if row["teacher_error"] is not None:
        scores = f" On the same evaluation part the teacher's error is {row['teacher_error']:.4f}"
        scores += f" and the two agree on {row['agreement']:.1%}."
    return f"Arm: distilled, from `{row['teacher']}`{size}; {row['distillation']}.{scores}"


def _limits(task: Task, row: Mapping[str, Any], overlap: str) -> list[str]:
    return [
        f"One seed ({row['seed']}): how far seeds differ cannot be seen from it.",
        f"Measured on `{_evaluated(row)}` alone: nothing is known about other data, about groups of people in it, or "
        "about inputs made to mislead.",
        f"Overlap: of the evaluation {task.data}, {overlap}.",
        "Trained by a rule that all sizes of a study share, so that they compare, not to be the best of its size.",
    ]


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


def _title(row: Mapping[str, Any]) -> str:
    name = f"{row['model']}, {row['arm']}" + (f", on {row['upstream']}" if row["upstream"] else "")
    return f"{name}, fine-tuned on {row['downstream']}" if row["downstream"] else name


def _evaluated(row: Mapping[str, Any]) -> str:
    return row["downstream"] or row["upstream"]


def _doubt(row: Mapping[str, Any]) -> float:
    """Half the width of the 95 % interval of the error that so many evaluation images or tokens leave."""
    return _NORMAL_95 * math.sqrt(row["error"] * (1 - row["error"]) / row["n_eval"])


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
