#!/usr/bin/env bash
# MetaSAug (CVPR 2021) with cross-entropy and LDAM on CIFAR-LT, ResNet-32. Two controls: the same
# runs without the meta step, and class weights without augmentation. Every run starts from epoch
# 161 of the baselines' cross-entropy model and trains the whole network for 40 epochs.
#   metasaug.sh [FOLDER OF THE DATA] [OUT] [cifar10|cifar100] [FACTOR: 10, 20, 50, 100, 200]
# Takes about an hour and a half on two cores after the pre-training, half an hour for each base
# loss. Expect each run within 0.1 points of its control, because the meta step is very small.
set -euo pipefail
root=${1:-data} data=${3:-cifar10} factor=${4:-100}
d=${2:-artifacts/$data-lt-$factor}

ltcli split "$data" --root "$root" --imbalance-factor "$factor" --protocol holdout -d "$d"
ltcli pretrain --backbone resnet32 --schedule ldam --snapshots 40 -d "$d"
stage2=(--from-epoch 161 --snapshots 40 -d "$d")
ltcli finetune --method metasaug --meta-lr 0 --out "$d/finetune-metasaug-control.safetensors" "${stage2[@]}"
ltcli finetune --method metasaug "${stage2[@]}"
ltcli finetune --method metasaug --base ldam --strength 0.75 \
    --out "$d/finetune-metasaug-ldam.safetensors" "${stage2[@]}"
ltcli finetune --method metasaug --base ldam --strength 0.75 --meta-lr 0 \
    --out "$d/finetune-metasaug-ldam-control.safetensors" "${stage2[@]}"
ltcli finetune --method class-balanced --data images --train all --epochs 40 --batch-size 100 \
    --lr 0.001 --decay steps --milestones 20 --factors 0.01 --nesterov --pad-mode reflect \
    --out "$d/finetune-class-balanced-all.safetensors" "${stage2[@]}"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
