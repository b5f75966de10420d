#!/usr/bin/env bash
# MiSLAS (CVPR 2021) on Places-LT, ResNet-152 with ImageNet weights: trains with mixup for 90 epochs,
# then with label-aware smoothing and shifted batch-norms, beside cRT and LWS after the same mixup.
# The released code trains only the last block in the first stage; here everything is trained.
#   mislas.sh [FOLDER OF THE DATA] [OUT] [WEIGHTS: A FILE OR default]
# Takes: not measured. Expect, as published, 29.2 % after mixup, 38.3 % by cRT, 39.7 % by LWS and
# 40.4 % by MiSLAS.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} weights=${3:-default}
d=${2:-artifacts/places-lt-mixup}

ltcli split places-lt --root "$root" -d "$d"
ltcli pretrain --backbone timm.resnet152.tv_in1k --weights "$weights" --schedule cosine --epochs 90 \
    --batch-size 256 --lr 0.01 --warmup 0 --weight-decay 5e-4 --no-nesterov --mixup 0.2 \
    --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli finetune --method mislas --data images --shift-bn --smooth-head 0.4 --smooth-tail 0.1 \
    --classifier-rate 0.05 --epochs 10 --batch-size 256 --lr 0.1 --weight-decay 5e-4 \
    --jitter 0.4 -d "$d"
ltcli finetune --method crt --epochs 10 --batch-size 256 -d "$d"
ltcli finetune --method lws --epochs 5 --batch-size 256 -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
