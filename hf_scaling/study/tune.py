"""Learning rates of a study: tuned on the plain arm and a validation part alone, at two sizes and two n_pretrain.

Successive halving: every rate trains a quarter of the steps, the better half of the rates twice as many, and so on
(Jamieson and Talwalkar 2016). The rate of another size is on the line through both sizes' best rates, in logarithms.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_scaling import files
from hf_scaling.study.look import StudyPlan

NAME = "tuning.json"
#: Rates that are tried.
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
# Shares of the steps of the three halvings; rates of other sizes change by at most this power of n_params.
_SHARES, _STEEPEST = (0.25, 0.5, 1.0), 1.0


def tune(
    plan: StudyPlan,
    content: Mapping[str, Any],
    folder: Path,
    seconds: float,
    loss_of: Callable[[Mapping[str, Any]], float] | None = None,
) -> dict[str, float]:
    """Tune the learning rate of a study's students.

    Args:
        plan: The study's plan.
        content: Its grid.
        folder: Its folder; `tuning.json` there is read, if it exists, and written.
        seconds: The most that it may take; when they are spent the best rate so far counts.
        loss_of: Fields of a pretraining run to its loss on the validation part; by default it is trained.

    Returns:
        Learning rate of each student and of the teacher.
    """
    path = folder / NAME
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))["rates"]
    loss_of, ends = loss_of or validation_loss, time.monotonic() + seconds
    # What a killed call has tried is not tried again.
    begun = folder / f".{NAME}.begun"
    known = json.loads(begun.read_text(encoding="utf-8")) if begun.is_file() else {}
    small, _, large = plan.students
    levels = [plan.n_pretrain[len(plan.n_pretrain) // 3], plan.n_pretrain[2 * len(plan.n_pretrain) // 3]]
    tried: list[dict[str, Any]] = []
    best = {}
    for model in (small, large):
        rates = list(RATES)
        for share in _SHARES:
            losses = {}
            for rate in rates:
                if tried and time.monotonic() > ends:
                    break
                losses[rate] = 0.0
                for n in levels:
                    fields = _fields(content, model, n, rate, share, plan.seed)
                    key = json.dumps(fields, sort_keys=True, default=str)
                    loss = known[key] if key in known else loss_of(fields)
                    known[key] = loss
                    files.write_text(begun, json.dumps(known))
                    tried.append({"model": model, "n_pretrain": n, "rate": rate, "steps": share, "loss": loss})
                    losses[rate] += loss / len(levels) if math.isfinite(loss) else math.inf
            if not losses:
                break
            rates = sorted(losses, key=losses.__getitem__)
            best[model] = rates[0]
            rates = rates[: max(1, len(rates) // 2)]
            if len(rates) == 1:
                break
    best.setdefault(large, best[small])
    rates_by_model = _on_the_line(plan, best)
    record = {"rates": rates_by_model, "best": best, "tried": tried}
    files.write_text(path, json.dumps(record, indent=1) + "\n")
    begun.unlink(missing_ok=True)
    return rates_by_model


def validation_loss(fields: Mapping[str, Any]) -> float:
    """The loss on the validation part of a pretraining run, which leaves no folder; infinite where training fails."""
    from hf_scaling import training
    from hf_scaling.errors import RunError

    with tempfile.TemporaryDirectory() as scratch:
        parsed = training.parse_fields("pretrain", {**fields, "output_dir": scratch})
        try:
            return training.validate(training.resolve(*parsed), Path(scratch))
        except RunError:
            return math.inf


def _fields(
    content: Mapping[str, Any], model: str, n_pretrain: int, rate: float, share: float, seed: int
) -> dict[str, Any]:
    """Fields of a run that holds a validation part out, with a share of the steps."""
    fields = {**content["pretrain"], "model": model, "n_pretrain": n_pretrain, "learning_rate": rate, "seed": seed}
    epochs, least = fields["num_train_epochs"], fields.get("min_steps", 0)
    fields |= {"num_train_epochs": epochs * share, "min_steps": max(1, round(least * share))}
    # One evaluation, at the end: what is compared is where training ends.
    quiet = {"disable_tqdm": True, "report_to": "none", "logging_strategy": "no"}
    return {**fields, **quiet, "eval_strategy": "epoch", "teacher": "none"}


def _on_the_line(plan: StudyPlan, best: Mapping[str, float]) -> dict[str, float]:
    small, _, large = plan.students
    sizes = {name: math.log(n) for name, n in plan.n_params.items()}
    slope = math.log(best[large] / best[small]) / (sizes[large] - sizes[small])
    slope = float(np.clip(slope, -_STEEPEST, _STEEPEST))
    centre = (math.log(best[small]) + math.log(best[large])) / 2
    middle = (sizes[small] + sizes[large]) / 2
    rates = {name: math.exp(centre + slope * (size - middle)) for name, size in sizes.items()}
    # The teacher is smaller than all; its size is not planned, and beyond the smallest the line is not trusted.
    rates[plan.teacher] = rates[small]
    return {name: float(f"{rate:.2g}") for name, rate in rates.items()}


def describe(folder: Path, models: Sequence[str]) -> str:
    """What was chosen, as a line: vit-50k 0.002, vit-400k 0.001."""
    record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    rates = ", ".join(f"{name} {record['rates'][name]:g}" for name in models)
    return f"learning rates by {len(record['tried'])} short runs of the plain arm on a validation part: {rates}"
