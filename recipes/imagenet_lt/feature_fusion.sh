#!/usr/bin/env bash
# Feature space augmentation (ECCV 2020) on ImageNet-LT, ResNet-10 from scratch, after cross-entropy
# and after the focal loss. The control sees the same balanced batches without fused features. The
# paper does not give its training here: the first phase is decoupling.sh's, the second is that of
# CIFAR-LT, 6,300 steps of 128 images at rate 1e-3.
#   feature_fusion.sh [FOLDER OF THE DATA] [OUT]
# Takes: not measured. Expect, as published, 35.2 %, and 35.3 % after the focal loss.
set -euo pipefail
root=${1:-data}
d=${2:-artifacts/imagenet-lt-resnet10}

ltcli split imagenet-lt --root "$root" -d "$d"
for loss in cross-entropy focal; do
    start=(--model "$d/$loss.safetensors" -d "$d")
    ltcli pretrain --method "$loss" --backbone timm.resnet10 --schedule cosine --epochs 90 \
        --batch-size 512 --lr 0.2 --warmup 0 --weight-decay 5e-4 --no-nesterov --jitter 0.4 \
        --out "$d/$loss.safetensors" -d "$d"
    ltcli dump-features --out "$d/features-$loss.safetensors" "${start[@]}"
    ltcli confusion --features "$d/features-$loss.safetensors" \
        --out "$d/confusion-$loss.safetensors" "${start[@]}"
    fusion=(--method feature-fusion --data images --epochs 7 --jitter 0.4 "${start[@]}")
    ltcli finetune "${fusion[@]}" --confusion "$d/confusion-$loss.safetensors" \
        --out "$d/$loss-fusion.safetensors"
    ltcli finetune "${fusion[@]}" --donors-per-image 0 --out "$d/$loss-control.safetensors"
done
ltcli evaluate -d "$d"
ltcli compare -d "$d"
