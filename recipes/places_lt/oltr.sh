#!/usr/bin/env bash
# OLTR (CVPR 2019) on Places-LT, ResNet-152 with ImageNet weights: trains with cross-entropy for 30
# epochs, then a classifier with a memory for 30 on the frozen backbone. Differences to the released
# code: in the first stage it has rate 1e-3 for the backbone and 0.1 for the classifier, here both
# have 0.01; it has 512 features, here 2048; its centroids have the classifier's rate, here a tenth.
#   oltr.sh [FOLDER OF THE DATA] [OUT] [WEIGHTS: A FILE OR default]
# Takes: not measured. Expect, as published, 35.9 %, and 27.2 % after the first stage.
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
ltcli covariances --form diagonal -d "$d"
ltcli finetune --method oltr --train classifier --epochs 30 --batch-size 128 --lr 0.01 \
    --milestones 10,20 --factors 0.1,0.01 --weight-decay 5e-4 --jitter 0.4 -d "$d"
ltcli finetune --method crt --epochs 10 --batch-size 128 \
    --out "$d/finetune-oltr-control.safetensors" -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
