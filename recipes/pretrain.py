"""Pretrain a student, plain or taught.

    accelerate launch recipes/pretrain.py
    accelerate launch recipes/pretrain.py --n_pretrain 2000 --teacher none
    accelerate launch recipes/pretrain.py --push_to_hub --hub_model_id org/my-student --hub_private_repo true
    accelerate launch --config_file recipes/accelerate/ddp_bf16.yaml recipes/pretrain.py \
        --config recipes/configs/imagenet.yaml
"""

import sys
from pathlib import Path

from hf_scaling.cli import exit_status

HERE = Path(__file__).parent


def main() -> None:
    """Read the configuration, pretrain, say what came out."""
    from hf_scaling import publishing, tasks, training

    fields, args = training.parse_pretrain(sys.argv[1:], HERE / "configs" / "demo.yaml")
    args, at_end = publishing.take_push(args)
    folder, row = training.pretrain(fields, args)
    recipe = Path(sys.argv[0]).with_name("finetune.py")
    downstream = tasks.find(fields.task).fields["finetune"]
    which = "" if fields.task == downstream.task else f" --task {fields.task}"
    command = f"accelerate launch {recipe}{which} --checkpoint {folder} --source {downstream.source}"
    training.announce(folder, row, command)
    at_end.push(folder)


if __name__ == "__main__":
    sys.exit(exit_status(main, debug="--debug" in sys.argv))
