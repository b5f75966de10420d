#!/usr/bin/env bash
# MetaSAug (CVPR 2021) on ImageNet-LT, ResNet-50: trains the classifier for 20 epochs at a constant
# rate on the backbone of decoupling.sh. The control has no meta step. Strength (0.25, growing from
# 0), diagonal covariances and batch size 256 are those of the released code. The meta set is all 20
# validation images per class, where the paper takes 10.
#   metasaug.sh [FOLDER OF THE DATA] [OUT] [BACKBONE]
# Takes: not measured. Expect, as published, 47.39 %, and 38.88 % by cross-entropy.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} backbone=${3:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/imagenet-lt${other:+-$other}}
stage2=(--data images --train classifier --epochs 20 --batch-size 256 --lr 3e-4 --jitter 0.4)
metasaug=(--method metasaug --form diagonal --strength 0.25 --ramp-start 0 --beta 0.9999)

ltcli split imagenet-lt --root "$root" -d "$d"
ltcli pretrain --backbone "$backbone" --schedule cosine --epochs 90 --batch-size 512 --lr 0.2 \
    --warmup 0 --weight-decay 5e-4 --no-nesterov --jitter 0.4 -d "$d"
ltcli finetune "${metasaug[@]}" "${stage2[@]}" -d "$d"
ltcli finetune "${metasaug[@]}" --meta-lr 0 \
    --out "$d/finetune-metasaug-control.safetensors" "${stage2[@]}" -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
