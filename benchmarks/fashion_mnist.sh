#!/usr/bin/env bash
# The runs behind docs/measured.md: error and loss against n_pretrain, and the distillation boundary, on Fashion-MNIST.
#
#   benchmarks/fashion_mnist.sh OUT
#
# Needs Debian's package dataset-fashion-mnist. Finished runs are not trained again; an interrupted one is resumed.
# The curve takes about an hour of one CPU core, the boundary study about an hour and a half, with half the steps half
# an hour more, the fine-tuning half an hour.
set -euo pipefail
out=$(realpath -m "${1:?give a folder for the runs}")
here=$(realpath "$(dirname "$0")/..")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1
[ -d "$out/fashion_mnist" ] || python "$here/tests/support/fashion_mnist.py" "$out/fashion_mnist"

# curve IMAGES SEED: the student of the shipped recipe, without distillation
curve() {
    python "$here/recipes/pretrain.py" --config "$here/recipes/configs/fashion_mnist.yaml" \
        --source "$out/fashion_mnist" --n_pretrain "$1" --seed "$2" --teacher none --output_dir "$out/curve/$1-$2"
}
for n in 250 500 1000 2000 4000; do for seed in 0 1 2; do curve "$n" "$seed"; done; done
for n in 8000 16000 32000 60000; do curve "$n" 0; done
hf-scaling merge "$out"/curve/* --out "$out/curve-results"

# The boundary study, and its pretraining of vit-200k with half the steps.
python - "$here/recipes/grids/fashion_mnist.yaml" "$out" <<'PYTHON'
import sys
from pathlib import Path

import yaml

grid, out = yaml.safe_load(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
grid["pretrain"]["source"] = str(out / "fashion_mnist")
(out / "study.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
half = {name: grid[name] for name in ("n_pretrain", "arms", "seeds")} | {"models": ["vit-200k"]}
half["pretrain"] = grid["pretrain"] | {"num_train_epochs": 5, "min_steps": 200}
half["overrides"] = grid["overrides"][:1]
(out / "half_steps.yaml").write_text(yaml.safe_dump(half, sort_keys=False))
PYTHON
hf-scaling run "$out/study.yaml" --out "$out/study"
hf-scaling run "$out/half_steps.yaml" --out "$out/half_steps"
hf-scaling boundary "$out/study"
hf-scaling boundary "$out/half_steps"
