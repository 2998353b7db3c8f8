"""One run made by a worker: claimed, trained, and said how it ended."""

import gc
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_scaling import files, training
from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import PlannedRun
from hf_scaling.runner.study_folder import Study

#: What a recipe calls the run that it goes on from.
_PARENT = {"pretrain": "trunk", "finetune": "checkpoint"}


def freeze_libraries() -> None:
    """Tell the garbage collector that what is loaded by now stays, so that no collection looks at it again."""
    gc.collect()
    gc.freeze()


class Performer:
    """What a worker is while it lives: warm, one run after the other."""

    def __init__(self):
        self.warm = training.Warm()

    def perform(self, study_path: str, run: Mapping[str, Any]) -> dict[str, Any]:
        """Make a planned run.

        Returns:
            `status`: done; busy (a living process of another runner is at it); failed, with the `error` in one line;
            or disk, with an `error` that every other run would meet too.
        """
        study, planned = Study(study_path), PlannedRun.from_dict(run)
        try:
            with study.claims.held(planned.run_id) as free:
                if not free:
                    return {"status": "busy"}
                with _output_to(study.log(planned.run_id)):
                    make = launch_run if planned.processes > 1 else self._make
                    make(study, planned)
                study.log(planned.run_id).unlink(missing_ok=True)
                return {"status": "done"}
        except Exception as error:
            trouble = files.disk_trouble(error)
            return {"status": "disk" if trouble else "failed", "error": _line(error, trouble)}

    def _make(self, study: Study, planned: PlannedRun) -> None:
        make_run(study, planned, self.warm)


def make_run(study: Study, planned: PlannedRun, warm: training.Warm | None = None) -> None:
    """Train, evaluate and write one run into the study's folder of it; go on where a killed one stopped.

    Raises:
        InputError, RunError: The run cannot be made.
        AssertionError: It was another run than the plan says.
    """
    fields, args = training.parse_fields(planned.spec.stage, told_to_recipe(study, planned))
    recipe = training.pretrain if planned.spec.stage == "pretrain" else training.finetune
    _, row = recipe(fields, args, warm)
    if row["run_id"] != planned.run_id:
        raise AssertionError(
            f"planned as {planned.run_id}, made as {row['run_id']}: the source or the code has changed"
        )


def launch_run(study: Study, planned: PlannedRun) -> None:
    """Make a run of several processes, through accelerate.

    Raises:
        RunError: They did not finish it; the last line that they said.
    """
    count = ["--num_processes", str(planned.processes), "--multi_gpu"]
    module = ["--module", "hf_scaling.runner.launched", str(study.path), json.dumps(planned.to_dict())]
    everything = os.environ.get("HF_SCALING_ALL_GPUS")
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": everything} if everything else {})
    command = [sys.executable, "-m", "accelerate.commands.launch", *count, *module]
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
        said = study.log(planned.run_id).read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in said if line.startswith("error: ")] or said[-1:] or ["error: it said nothing"]
        raise RunError(errors[0].removeprefix("error: "))


def told_to_recipe(study: Study, planned: PlannedRun) -> dict[str, Any]:
    """What the recipe is told: the run's fields, and where on this disk its teacher and its checkpoint are."""
    told = dict(planned.fields)
    if planned.teacher is not None:
        told["teacher"] = str(study.run_folder(planned.teacher))
    if planned.parent is not None:
        told[_PARENT[planned.spec.stage]] = str(study.run_folder(planned.parent))
    own = {"output_dir": str(study.run_folder(planned.run_id)), "disable_tqdm": True}
    # How a tracker (report_to) shows it, unless the grid says otherwise.
    return {"project": study.path.resolve().name, "run_name": planned.run_id, **told, **own}


def _line(error: Exception, trouble: str | None) -> str:
    """An error in one line; our own say best what to do."""
    ours = isinstance(error, InputError | RunError)
    text = str(error) if ours else trouble or f"{type(error).__name__}: {error}"
    return " ".join(text.split())


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what the libraries and their processes say into a file, and the traceback of an error too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
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
        for number, before in enumerate(kept, start=1):
            os.dup2(before, number)
            os.close(before)
