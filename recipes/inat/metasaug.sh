#!/usr/bin/env bash
# MetaSAug (CVPR 2021) on iNaturalist, ResNet-50: trains with cross-entropy for 200 epochs from
# scratch, then the classifier for 20 epochs at rate 1e-4. The control has no meta step. Holds out 2
# images per class (5 on 2017). On 2017 the paper starts from ImageNet weights: fifth argument.
#   metasaug.sh [FOLDER OF THE DATA] [OUT] [inat2018|inat2017] [BACKBONE] [WEIGHTS]
# Takes: not measured. Expect, as published, 68.75 % on 2018 and 63.28 % on 2017, where
# cross-entropy has 65.76 and 56.79 %.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} data=${3:-inat2018} backbone=${4:-timm.resnet50.tv_in1k} weights=${5:-none}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/$data-held-out${other:+-$other}}
held=2
[ "$data" = inat2018 ] || held=5
stage2=(--data images --train classifier --epochs 20 --batch-size 64 --lr 1e-4 -d "$d")
metasaug=(--method metasaug --form diagonal --strength 0.25 --ramp-start 0 --beta 0.9999)

ltcli split "$data" --root "$root" --protocol holdout --val-per-class "$held" -d "$d"
ltcli pretrain --backbone "$backbone" --weights "$weights" --schedule cosine --epochs 200 \
    --batch-size 512 --lr 0.2 --warmup 0 --weight-decay 1e-4 --no-nesterov -d "$d"
ltcli finetune "${metasaug[@]}" "${stage2[@]}"
ltcli finetune "${metasaug[@]}" --meta-lr 0 \
    --out "$d/finetune-metasaug-control.safetensors" "${stage2[@]}"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
