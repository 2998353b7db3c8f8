"""What a study tried to choose its learning rates, from the `tuning.json` of its folder, as facts of its report."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hf_scaling.text import format_percent

NAME = "tuning.json"


def describe_tuning(study: Path | None) -> dict[str, str]:
    """How the learning rates and steps of a study were chosen: name of a fact -> text; empty where nothing was tuned.

    Args:
        study: The folder; None where the results are not a study's.
    """
    if study is None or not (study / NAME).is_file():
        return {}
    try:
        record = json.loads((study / NAME).read_text(encoding="utf-8"))
        chosen, tried = dict(record.get("rates", {})), list(record.get("tried", ()))
        losses: dict[tuple[str, float], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        by_steps: dict[int, list[float]] = defaultdict(list)
        for trial in tried:
            if trial.get("min_steps") is not None:
                by_steps[trial["min_steps"]].append(float(trial["loss"]))
            else:
                losses[trial["model"], trial["steps"]][trial["rate"]].append(float(trial["loss"]))
        remarks, least = [str(remark) for remark in record.get("remarks", ())], record.get("min_steps")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {"learning rates": f"tuned, but {study / NAME} cannot be read: how is not known"}
    facts = {"tuning": "; ".join(remarks)} if remarks else {}
    if least is not None:
        compared = ", ".join(f"{steps:,} {_mean_loss(values)}" for steps, values in sorted(by_steps.items()))
        facts["least number of steps"] = f"{least:,}" + (f"; validation loss of each: {compared}" if compared else "")
    if not chosen:
        return facts
    rates = ", ".join(f"{name} {rate:g}" for name, rate in chosen.items())
    rungs = [
        f"{model} at {format_percent(share)} of the steps: "
        + ", ".join(f"{rate:g} {_mean_loss(values)}" for rate, values in sorted(by_rate.items()))
        for (model, share), by_rate in losses.items()
    ]
    levels = sorted({trial["n_pretrain"] for trial in tried})
    at = f", mean over n_pretrain {' and '.join(f'{n:,}' for n in levels)}" if levels else ""
    facts["learning rates"] = f"{rates}; tuned on the plain arm and a validation part alone"
    return facts | ({"rates tried": f"validation loss of each rate{at}: {'; '.join(rungs)}"} if rungs else {})


def _mean_loss(losses: Sequence[float]) -> str:
    mean = sum(losses) / len(losses)
    return f"{mean:.3f}" if math.isfinite(mean) else "diverged"
