"""Pretrain a student, plain or taught.

    accelerate launch recipes/pretrain.py
    accelerate launch recipes/pretrain.py --n_pretrain 2000 --teacher none
    accelerate launch --config_file recipes/accelerate/ddp_bf16.yaml recipes/pretrain.py \
        --config recipes/configs/imagenet.yaml
"""

import sys
from pathlib import Path

from hf_scaling.cli import exit_status

HERE = Path(__file__).parent


def main() -> None:
    """Read the configuration, pretrain, say what came out."""
    from hf_scaling import training

    fields, args = training.parse_pretrain(sys.argv[1:], HERE / "configs" / "demo.yaml")
    folder, row = training.pretrain(fields, args)
    recipe = Path(sys.argv[0]).with_name("finetune.py")
    training.announce(folder, row, f"accelerate launch {recipe} --checkpoint {folder} --source digits")


if __name__ == "__main__":
    sys.exit(exit_status(main, debug="--debug" in sys.argv))
