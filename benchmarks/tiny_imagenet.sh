#!/bin/sh
# The study of docs/tiny_imagenet.md, in the order in which its answers matter; stop it at any time, the same command resumes.
#
#   sh benchmarks/tiny_imagenet.sh FOLDER_WITH_THE_SETS OUT [WORKERS]
set -e
sets=$1 out=$2 workers=${3:-2}
export OMP_NUM_THREADS=1

study() {
    folder=$1
    shift
    nice -n 5 hf-scaling run tiny_imagenet --set "source=$sets/tiny_imagenet_32a" --out "$folder" --workers "$workers" "$@"
}
part() {
    study "$out" "$@"
}

near='downstream=[tiny_imagenet_32b, cifar10]'
far='downstream=[caltech101_32, gtsrb_32]'
middle=model=vit-200k
part --only seed=0 --only stage=pretrain --only "$middle"
part --only seed=0 --only stage=pretrain --only model=vit-100k
# Both arms of an amount before the next amount, so that every stop leaves pairs.
for n_pretrain in '[0, 11250]' '[500, 2000]' '[4000, 8000]' '[250, 1000]'; do
    part --only seed=0 --only "$near" --only "$middle" --only "n_pretrain=$n_pretrain"
done
part --only seed=0 --only "$near" --only model=vit-100k
part --only stage=pretrain --only 'model=[vit-100k, vit-200k]'
part --only seed=0 --only "$far" --only "$middle"
part --only stage=pretrain --only model=vit-800k --only 'n_pretrain=[2000, 11250]'
# The middle size with half the steps, and with distillation that stops once the student has passed its teacher.
study "${out}_half_steps" --set pretrain.num_train_epochs=7.5 --set pretrain.min_steps=200 --only seed=0 --only stage=pretrain \
    --only "$middle"
study "${out}_until_passed" --only seed=0 --only stage=pretrain --only "$middle" --only arm=distilled \
    --set 'arms=[plain, {teacher: vit-30k, alpha: 0.5, temperature: 2.0, alpha_schedule: until_passed}]'
part --only seed=0 --only model=vit-800k --only 'n_pretrain=[0, 2000, 11250]'
part
