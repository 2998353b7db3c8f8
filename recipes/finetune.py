"""Fine-tune a checkpoint on a labelled downstream source.

accelerate launch recipes/finetune.py --checkpoint runs/RUN_ID --source digits
accelerate launch recipes/finetune.py --checkpoint runs/RUN_ID --source digits --n_finetune 50 --train_part head
"""

import sys
from pathlib import Path

from hf_scaling.cli import exit_status

HERE = Path(__file__).parent


def main() -> None:
    """Read the configuration, fine-tune, say what came out."""
    from hf_scaling import publishing, tasks, training

    fields, args = training.parse_finetune(sys.argv[1:], HERE / "configs" / "finetune.yaml")
    args, at_end = publishing.take_push(args)
    folder, row = training.finetune(fields, args)
    task = tasks.find(fields.task)
    use = f"from transformers import pipeline; print(pipeline('{task.tag}', '{folder}')('{task.sample}'))"
    training.announce(folder, row, f'python -c "{use}"')
    at_end.push(folder)


if __name__ == "__main__":
    sys.exit(exit_status(main, debug="--debug" in sys.argv))
