"""The model card of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_scaling import files, transport
from hf_scaling.cards import markdown_table, render_card

_ELSEWHERE = ("error", "loss", "n_eval", "versions", "schema_version")


def write_card(folder: Path, row: Mapping[str, Any], overlap: str) -> None:
    """Write README.md into `folder`; `overlap` says how many evaluation images were trained on."""
    files.write_text(folder / "README.md", render_card("student", _values(folder, row, overlap), _metadata(row)))


def _values(folder: Path, row: Mapping[str, Any], overlap: str) -> dict[str, Any]:
    known = [(name, value) for name, value in row.items() if value is not None and name not in _ELSEWHERE]
    return {
        "title": _title(row),
        "stage": "Fine-tuned" if row["stage"] == "finetune" else "Pretrained",
        "images": row["downstream"] or row["upstream"],
        "error": f"{row['error']:.4f}",
        "loss": f"{row['loss']:.4f}",
        "n_eval": f"{row['n_eval']:,}",
        "overlap": overlap,
        "table": markdown_table(("column", "value"), known),
        "folder": folder.name,
        "versions": ", ".join(f"{name} {version}" for name, version in json.loads(row["versions"]).items()),
    }


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    """The head that the Hub reads: tags, data sets and the scores as a model index."""
    images = row["downstream"] or row["upstream"]
    head = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["hf_scaling", "image-classification", row["arm"]],
    }
    if "/" in images:
        head["datasets"] = [images]
    if row["parent"] and transport.is_hub_id(row["parent"]) and "/" in row["parent"]:
        head["base_model"] = row["parent"]
    metrics = [
        {"type": "accuracy", "value": round(1 - row["error"], 6)},
        {"type": "loss", "value": round(row["loss"], 6)},
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": images, "type": images, "split": row["eval_split"]},
        "metrics": metrics,
    }
    return head | {"model-index": [{"name": _title(row), "results": [result]}]}


def _title(row: Mapping[str, Any]) -> str:
    name = f"{row['model']} {row['arm']} on {row['upstream']}"
    return f"{name}, fine-tuned on {row['downstream']}" if row["downstream"] else name
