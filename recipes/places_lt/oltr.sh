#!/usr/bin/env bash
# OLTR (CVPR 2019) on Places-LT, ResNet-152 with weights of ImageNet: 30 epochs of cross-entropy,
# then 30 of a classifier with a memory on the frozen backbone. The released code has rate 1e-3 for
# the backbone and 0.1 for the classifier in the first stage, here both have 0.01; it has 512
# features, here 2048; and its centroids have the classifier's rate, here a tenth of it.
#   oltr.sh [FOLDER OF THE DATA] [OUT] [WEIGHTS: A FILE OR default]
# Takes: not measured. Expect, as published, 35.9 %, and 27.2 % after the first stage.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} weights=${3:-default}
d=${2:-artifacts/places-lt}

ltcli split places-lt --root "$root" -d "$d"
# Milestones are those of mwn's 100 epochs: 10 and 20 of 30.
ltcli pretrain --backbone timm.resnet152.tv_in1k --weights "$weights" --schedule mwn --epochs 30 \
    --batch-size 256 --lr 0.01 --milestones 33,67 --factors 0.1,0.01 --weight-decay 5e-4 \
    --no-nesterov --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli covariances --form diagonal -d "$d"
ltcli finetune --method oltr --train classifier --epochs 30 --batch-size 128 --lr 0.01 \
    --milestones 10,20 --factors 0.1,0.01 --weight-decay 5e-4 --jitter 0.4 -d "$d"
ltcli finetune --method crt --epochs 10 --batch-size 128 \
    --out "$d/finetune-oltr-control.safetensors" -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
