#!/usr/bin/env bash
# Feature space augmentation (ECCV 2020) on Places-LT, ResNet-152 with ImageNet weights. The control
# sees the same balanced batches without fused features. The paper does not give its training here:
# the first phase is decoupling.sh's, the second is CIFAR-LT's, 6,300 steps of 128 at rate 1e-3.
#   feature_fusion.sh [FOLDER OF THE DATA] [OUT] [WEIGHTS: A FILE OR default]
# Takes: not measured. Expect, as published, 36.4 %, and 27.2 % by cross-entropy.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} weights=${3:-default}
d=${2:-artifacts/places-lt}

ltcli split places-lt --root "$root" -d "$d"
# Milestones count in mwn's 100 epochs and move in proportion: 33 and 67 of 100 are 10 and 20 of 30.
ltcli pretrain --backbone timm.resnet152.tv_in1k --weights "$weights" --schedule mwn --epochs 30 \
    --batch-size 256 --lr 0.01 --milestones 33,67 --factors 0.1,0.01 --weight-decay 5e-4 \
    --no-nesterov --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli confusion -d "$d"
fusion=(--method feature-fusion --data images --epochs 13 --jitter 0.4 -d "$d")
ltcli finetune "${fusion[@]}"
ltcli finetune "${fusion[@]}" --donors-per-image 0 \
    --out "$d/finetune-feature-fusion-control.safetensors"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
