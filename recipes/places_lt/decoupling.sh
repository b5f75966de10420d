#!/usr/bin/env bash
# Decoupling (ICLR 2020) on Places-LT, ResNet-152 with ImageNet weights: trains with cross-entropy
# for 30 epochs at the rates that STG gives, then classifiers on the frozen backbone. The released
# code trains only the last block in the first stage; here everything is trained.
#   decoupling.sh [FOLDER OF THE DATA] [OUT] [WEIGHTS: A FILE OR default]
# Takes: not measured. Expect, as published, 27.2 % by cross-entropy; cRT and LWS below 38.3 and
# 39.7 %, which are printed after mixup (see mislas.sh).
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
ltcli finetune --method crt --epochs 10 --batch-size 512 --lr 0.1 -d "$d"
ltcli finetune --method lws --epochs 5 --batch-size 512 --lr 0.1 -d "$d"
ltcli finetune --method tau-norm,ncm,logit-adjustment -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
