#!/usr/bin/env bash
# RISDA (AAAI 2022) on iNaturalist 2018, ResNet-50: trains 80 of 120 epochs with cross-entropy, rate
# falling at 60 and 80, then the classifier for 40 epochs with the covariances of confused classes.
# The paper gives neither its strength here (7.5 is ImageNet-LT's) nor the start of its second stage.
# Two controls: no reasoning, and no augmentation.
#   risda.sh [FOLDER OF THE DATA] [OUT] [inat2018|inat2017] [BACKBONE]
# Takes: not measured. Expect, as published for 2018, 69.15 %.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} data=${3:-inat2018} backbone=${4:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/$data-risda${other:+-$other}}
stage2=(--epochs 40 --batch-size 128 --lr 5e-4 --decay steps --weight-decay 1e-4 -d "$d")
risda=(--method risda --shift 0 --strength 7.5 --ramp-start 0.67 --head min-count --head-at 100)

ltcli split "$data" --root "$root" --val-per-class 0 -d "$d"
# Milestones count in mwn's 100 epochs and move in proportion: 75 of 100 is 60 of 80.
ltcli pretrain --backbone "$backbone" --schedule mwn --epochs 80 --batch-size 128 --lr 0.05 \
    --warmup 5 --milestones 75 --factors 0.1 --weight-decay 1e-4 -d "$d"
ltcli dump-features -d "$d"
ltcli covariances --form diagonal -d "$d"
ltcli confusion -d "$d"
ltcli finetune "${risda[@]}" --reasoning covariance "${stage2[@]}"
ltcli finetune "${risda[@]}" --reasoning none \
    --out "$d/finetune-risda-control.safetensors" "${stage2[@]}"
ltcli finetune --method class-balanced "${stage2[@]}"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
