#!/usr/bin/env bash
# OLTR (CVPR 2019) on ImageNet-LT, ResNet-10: 30 epochs of cross-entropy, then 60 with a memory of
# centroids, class-aware; rates as in the released code. Beside it a plain classifier, class-aware.
#   oltr.sh [FOLDER OF THE DATA] [OUT]
# Takes: not measured. Expect, as published, 35.6 %, and 20.9 % after the first stage, which 90
# epochs would bring to 32.7 %.
set -euo pipefail
root=${1:-data}
d=${2:-artifacts/imagenet-lt-oltr}

ltcli split imagenet-lt --root "$root" -d "$d"
# Milestones are those of mwn's 100 epochs: 10 and 20 of 30.
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
