#!/usr/bin/env bash
# Feature space augmentation (ECCV 2020) on iNaturalist: trains with cross-entropy for 100 epochs,
# rate falling every 30, then on fused tail features at rate 1e-3. The control has the same balanced
# batches without them. The paper trains 200 steps in the second phase; one epoch, the shortest run
# here, has 3,419 steps on 2018.
#   feature_fusion.sh [FOLDER OF THE DATA] [OUT] [inat2018|inat2017] [BACKBONE]
# Takes: not measured. Expect, as published for ResNet-50, 101 and 152, 65.91, 68.39 and 69.08 % on
# 2018, where cross-entropy has 62.27, 65.19 and 66.17 %; on 2017 61.96, 64.16 and 66.58 %.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} data=${3:-inat2018} backbone=${4:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/$data-fusion${other:+-$other}}

ltcli split "$data" --root "$root" --val-per-class 0 -d "$d"
ltcli pretrain --backbone "$backbone" --schedule mwn --epochs 100 --batch-size 256 --lr 0.1 \
    --milestones 30,60,90 --factors 0.1,0.01,0.001 --weight-decay 1e-4 --no-nesterov -d "$d"
ltcli dump-features -d "$d"
ltcli confusion -d "$d"
fusion=(--method feature-fusion --data images --epochs 1 -d "$d")
ltcli finetune "${fusion[@]}"
ltcli finetune "${fusion[@]}" --donors-per-image 0 \
    --out "$d/finetune-feature-fusion-control.safetensors"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
