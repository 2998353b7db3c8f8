"""Pretrain a student, with or without distillation.

    accelerate launch recipes/pretrain.py
    accelerate launch recipes/pretrain.py --n_pretrain 2000 --teacher none
    accelerate launch recipes/pretrain.py --push_to_hub --hub_model_id org/my-student --hub_private_repo true
    accelerate launch --config_file recipes/accelerate/ddp_bf16.yaml recipes/pretrain.py \
        --config recipes/configs/imagenet.yaml
"""

import sys
from pathlib import Path

from hf_scaling.cli import exit_status
from hf_scaling.processes import importing


def main() -> None:
    """Read the configuration, resolve the run, train it, print the result, push it."""
    with importing():
        from hf_scaling import publishing, training

    fields, args = training.parse_pretrain(sys.argv[1:], Path(__file__).parent / "configs" / "demo.yaml")
    args, at_end = publishing.take_push(args)
    run = training.resolve(fields, args)
    folder, row = training.train(run)
    downstream = run.task.fields["finetune"]
    task = "" if fields.task == downstream.task else f" --task {fields.task}"
    recipe = Path(sys.argv[0]).with_name("finetune.py")
    command = f"accelerate launch {recipe}{task} --checkpoint {folder} --source {downstream.source}"
    training.print_result(folder, row, command)
    at_end.push(folder)


if __name__ == "__main__":
    sys.exit(exit_status(main, debug="--debug" in sys.argv))
