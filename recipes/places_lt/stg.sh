#!/usr/bin/env bash
# STG on Places-LT, ResNet-152 with ImageNet weights: trains with mixup for 30 epochs, the generator
# on classes of more than 100 images, then the generalised classifier. The control has strength 0.
# Rates are the paper's, which gives no epochs, mixup alpha, head classes, strength or memory here.
#   stg.sh [FOLDER OF THE DATA] [OUT] [WEIGHTS: A FILE OR default]
# Takes: not measured. Expect, as published, 40.4 %, and 29.2 % after mixup.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} weights=${3:-default}
d=${2:-artifacts/places-lt-stg}
head=(--head min-count --head-at 100)
stg=(--method stg --classifier generalised --epochs 10 --lr 1e-3 --decay cosine)

ltcli split places-lt --root "$root" -d "$d"
# Milestones count in mwn's 100 epochs and move in proportion: 33 and 67 of 100 are 10 and 20 of 30.
ltcli pretrain --backbone timm.resnet152.tv_in1k --weights "$weights" --schedule mwn --epochs 30 \
    --batch-size 256 --lr 0.01 --milestones 33,67 --factors 0.1,0.01 --weight-decay 5e-4 \
    --no-nesterov --mixup 0.2 --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli stg-train "${head[@]}" -d "$d"
for strength in 0 1.5; do
    ltcli finetune "${stg[@]}" --strength "$strength" \
        --out "$d/finetune-stg-$strength.safetensors" -d "$d"
done
ltcli evaluate -d "$d"
ltcli compare -d "$d"
