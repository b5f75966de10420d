#!/usr/bin/env bash
# OLTR (CVPR 2019) on ImageNet-LT, ResNet-10: trains with cross-entropy for 30 epochs, then for 60
# epochs with a memory of centroids and class-aware batches, at the rates of the released code.
# Beside it: a plain classifier on class-aware batches.
#   oltr.sh [FOLDER OF THE DATA] [OUT]
# Takes: not measured. Expect, as published, 35.6 %, and 20.9 % after the first stage, which 90
# epochs would bring to 32.7 %.
set -euo pipefail
root=${1:-data}
d=${2:-artifacts/imagenet-lt-oltr}

ltcli split imagenet-lt --root "$root" -d "$d"
# Milestones count in mwn's 100 epochs and move in proportion: 33 and 67 of 100 are 10 and 20 of 30.
ltcli pretrain --backbone timm.resnet10 --schedule mwn --epochs 30 --batch-size 128 \
    --lr 0.1 --milestones 33,67 --factors 0.1,0.01 --weight-decay 5e-4 --no-nesterov \
    --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli covariances --form diagonal -d "$d"
ltcli finetune --method oltr --epochs 60 --batch-size 128 --lr 0.1 --milestones 20,40 \
    --factors 0.1,0.01 --weight-decay 5e-4 --jitter 0.4 -d "$d"
ltcli finetune --method crt --epochs 10 --batch-size 128 -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
