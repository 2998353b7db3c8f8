#!/usr/bin/env bash
# The runs behind docs/measured.md: error and loss against n_pretrain, and the distillation boundary, on Fashion-MNIST.
#
#   benchmarks/fashion_mnist.sh OUT
#
# Needs Debian's package dataset-fashion-mnist. Finished runs are not run again; an interrupted one goes on.
# About two and a half hours of one CPU core.
set -euo pipefail
out=${1:?give a folder for the runs}
here=$(dirname "$0")/..
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1
[ -d "$out/fashion_mnist" ] || python "$here/tests/support/fashion_mnist.py" "$out/fashion_mnist"

# run STUDY EPOCHS IMAGES SEED TEACHER
run() {
    python "$here/recipes/pretrain.py" --config "$here/recipes/configs/fashion_mnist.yaml" \
        --source "$out/fashion_mnist" --num_train_epochs "$2" --n_pretrain "$3" --seed "$4" --teacher "$5" \
        --output_dir "$out/$1/$3-$5-$4"
}

for n in 250 500 1000 2000 4000; do for seed in 0 1 2; do run curve 30 "$n" "$seed" none; done; done
for n in 8000 16000 32000 60000; do run curve 30 "$n" 0 none; done
for n in 250 4000 8000; do for seed in 0 1 2; do for teacher in none vit-30k; do
    run boundary 10 "$n" "$seed" "$teacher"
done; done; done
hf-scaling merge "$out"/curve/* --out "$out/curve-results"
hf-scaling merge "$out"/boundary/* --out "$out/boundary-results"
