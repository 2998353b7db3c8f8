"""Fine-tune a checkpoint on a labelled downstream source.

accelerate launch recipes/finetune.py --checkpoint runs/RUN_ID --source digits
accelerate launch recipes/finetune.py --checkpoint runs/RUN_ID --source digits --n_finetune 50 --train_part head
"""

import sys
from pathlib import Path

from hf_scaling.cli import exit_status
from hf_scaling.processes import importing


def main() -> None:
    """Read the configuration, resolve the run, train it, print the result, push it."""
    with importing():
        from hf_scaling import publishing, training

    fields, args = training.parse_finetune(sys.argv[1:], Path(__file__).parent / "configs" / "finetune.yaml")
    args, at_end = publishing.take_push(args)
    run = training.resolve(fields, args)
    folder, row = training.train(run)
    use = f"from transformers import pipeline; print(pipeline('{run.task.tag}', '{folder}')('{run.task.sample}'))"
    training.print_result(folder, row, f'python -c "{use}"')
    at_end.push(folder)


if __name__ == "__main__":
    sys.exit(exit_status(main, debug="--debug" in sys.argv))
