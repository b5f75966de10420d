#!/usr/bin/env bash
# STG (sample-specific, context-aware augmentation) on CIFAR-LT, ResNet-32: trains with mixup, the
# generator on head classes, then the classifier on augmented tail features. Three seeds, and two
# controls: strength 0 (the same classifier without augmentation), and head-mean (moves features
# towards the mean of the nearest head class, without a generator).
#   stg.sh [FOLDER OF THE DATA] [OUT] [cifar10|cifar100] [FACTOR: 10, 20, 50, 100, 200]
# Takes about an hour on two cores, five minutes of it after the pre-training. On CIFAR-10 at factor
# 100 expect STG some points above strength 0, and head-mean level with STG.
set -euo pipefail
root=${1:-data} data=${3:-cifar10} factor=${4:-100}
d=${2:-artifacts/$data-lt-$factor-mixup}
lr=0.001
[ "$data" = cifar10 ] || lr=0.0001

ltcli split "$data" --root "$root" --imbalance-factor "$factor" --protocol holdout -d "$d"
ltcli pretrain --backbone resnet32 --schedule mislas --mixup 1 --snapshots 20 -d "$d"
ltcli dump-features -d "$d"
for seed in 0 1 2; do
    run=(--seed "$seed" -d "$d")
    made=$d/stg-train-$seed.safetensors
    ltcli stg-train --out "$made" "${run[@]}"
    stg=(--method stg --generator "$made" --lr "$lr" --snapshots 10)
    for strength in 0 1 1.5; do
        ltcli finetune "${stg[@]}" --strength "$strength" \
            --out "$d/finetune-stg-$strength-$seed.safetensors" "${run[@]}"
    done
    ltcli finetune "${stg[@]}" --strength 1 --noise head-mean \
        --out "$d/finetune-head-mean-$seed.safetensors" "${run[@]}"
    ltcli finetune --method crt --snapshots 10 \
        --out "$d/finetune-crt-$seed.safetensors" "${run[@]}"
done
ltcli finetune --method tau-norm,logit-adjustment -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
