"""A worker: the process that trains the runs of a study, with torch loaded once and sources kept open.

`python -m hf_scaling.runner.worker` answers the requests ready, train, validate, train_share, plan and time_step of
the engines, of `--dry-run` and of a study's look (see `hf_scaling.processes`).
"""

import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_scaling import files
from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import PlannedRun
from hf_scaling.processes import Process, ProcessEnded, importing, serve
from hf_scaling.runner.engines import WORKER
from hf_scaling.runner.plans import plan_runs
from hf_scaling.runner.study_folder import Study, last_line
from hf_scaling.text import one_line

with importing():
    import torch

    from hf_scaling import tasks, training
    from hf_scaling.distillation import distillation_loss

_LONGEST = 8.0  # seconds of a first step after which no second one is timed
_TIMING = 0.5  # seconds for which steps are timed


class Worker:
    """Trains planned runs one after the other, and keeps what the next one can use."""

    def __init__(self) -> None:
        self._cache = training.ProcessCache()

    def train(self, study: str, run: Mapping[str, Any], gpus: Sequence[str] = ()) -> dict[str, str]:
        """Train one run into its folder in the study.

        Args:
            study: The study's folder.
            run: The run, as `PlannedRun.to_dict` gives it.
            gpus: The GPUs of a run of several processes; empty = those that this process sees.

        Returns:
            `status`: done; busy (a living process of another runner trains it); failed, with an `error` of one line;
            or disk, with an `error` that every other run would meet too.
        """
        folder, planned = Study(study), PlannedRun.from_dict(run)
        log = folder.log(planned.run_id)
        try:
            with folder.claims.held(planned.run_id) as is_ours:
                if not is_ours:
                    return {"status": "busy"}
                with _output_to(log):
                    if planned.processes > 1:
                        _launch(folder, planned, gpus)
                    else:
                        train_run(folder, planned, self._cache)
                log.unlink(missing_ok=True)
                return {"status": "done"}
        except Exception as error:
            disk = files.disk_trouble(error)
            # An error of this package names what to do, also where the disk is behind it.
            ours = isinstance(error, InputError | RunError)
            text = str(error) if ours else disk or f"{type(error).__name__}: {error}"
            return {"status": "disk" if disk else "failed", "error": one_line(text)}

    def validate(self, study: str, run: Mapping[str, Any], gpus: Sequence[str] = ()) -> dict[str, Any]:
        """Train a trial of a tuning, which leaves no folder.

        Args:
            study: The study's folder.
            run: `fields` of a pretraining run that holds a validation part out.
            gpus: Not used: a trial is one process.

        Returns:
            `status`: done, with the `loss` on the validation part; else as of `train`.
        """
        logs = Study(study).path / "logs"
        try:
            with tempfile.TemporaryDirectory(dir=logs, prefix="trial-") as scratch, _output_to(logs / "tuning.log"):
                parsed = training.parse_fields("pretrain", {**run["fields"], "output_dir": scratch})
                loss = training.validate(training.resolve(*parsed, cache=self._cache), Path(scratch))
            return {"status": "done", "loss": loss}
        except Exception as error:
            disk = files.disk_trouble(error)
            return {
                "status": "disk" if disk else "failed",
                "error": one_line(disk or f"{type(error).__name__}: {error}"),
            }


def train_run(study: Study, planned: PlannedRun, cache: training.ProcessCache | None = None) -> None:
    """Train, evaluate and write one run into its folder in the study; resume it where a kill has stopped it.

    Raises:
        InputError, RunError: The run cannot be trained, or its source, a checkpoint or the code has changed since it
            was planned.
    """
    folder = study.run_folder(planned.run_id)
    # How a tracker (report_to) shows the run, unless the grid sets it.
    shown = {"project": study.path.resolve().name, "run_name": planned.run_id}
    arguments = {name: value for name, value in shown.items() if name not in planned.fields}
    run = training.ResolvedRun.from_dict(
        planned.to_dict(), study.run_folder, cache, output_dir=str(folder), disable_tqdm=True, **arguments
    )
    training.train(run, folder)


def train_share(study: str, run: Mapping[str, Any]) -> None:
    """Take part in a run of several processes, each of which calls this."""
    train_run(Study(study), PlannedRun.from_dict(run))


def time_step(model: str, n_classes: int, fields: Mapping[str, Any], batch: int) -> float:
    """Seconds of one training step on this machine: the median of some, as other work disturbs single ones.

    Args:
        model: Name of the student.
        n_classes: Number of its outputs.
        fields: Fields of a pretraining run of it.
        batch: Examples in the step.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    parsed, _ = training.build_fields("pretrain", fields)
    task = tasks.find(parsed.task)
    student = task.build(model, parsed, training.GuessedSource(parsed.source, range(n_classes)), seed=0).to(device)
    optimizer = torch.optim.AdamW(student.parameters())
    inputs = task.inputs(parsed).blank(batch, device)
    with torch.no_grad():
        labels = student(**inputs).logits.argmax(-1)
    times: list[float] = []
    began = time.monotonic()
    while len(times) < 2 or time.monotonic() - began < _TIMING:
        start = time.monotonic()
        loss = distillation_loss(student(**inputs).logits, None, labels, alpha=0).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        # On an accelerator the step has ended when its loss is known.
        loss.item()
        times.append(time.monotonic() - start)
        if times[0] > _LONGEST:
            return times[0]
    # The first step also allocates the memory.
    return statistics.median(times[1:])


def _launch(study: Study, planned: PlannedRun, gpus: Sequence[str]) -> None:
    """Train a run in several processes, through accelerate.

    Raises:
        InputError, RunError: What one of them raised, or the last line that they printed.
    """
    launcher = ["accelerate.commands.launch", "--num_processes", str(planned.processes), "--multi_gpu"]
    request = {"name": "train_share", "arguments": {"study": str(study.path), "run": planned.to_dict()}}
    variables = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else None
    with Process(WORKER, variables, launcher=launcher, request=request) as process:
        try:
            process.receive()
            status = process.wait()
        except ProcessEnded as error:
            raise RunError(last_line(study.log(planned.run_id)) or str(error)) from None
        if status:
            raise RunError(f"accelerate launch ended with status {status}")


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what libraries and their processes print to a file, and the traceback of an error too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    originals = os.dup(1), os.dup(2)
    log = path.open("a", encoding="utf-8")
    for number in (1, 2):
        os.dup2(log.fileno(), number)
    try:
        yield
    except Exception:
        traceback.print_exc(file=log)
        raise
    finally:
        log.close()
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in enumerate(originals, start=1):
            os.dup2(original, number)
            os.close(original)


def main() -> None:
    """Answer requests until the runner is gone."""
    worker = Worker()
    serve(
        {
            "ready": lambda: None,
            "train": worker.train,
            "validate": worker.validate,
            "train_share": train_share,
            "plan": plan_runs,
            "time_step": time_step,
        }
    )


if __name__ == "__main__":
    main()
