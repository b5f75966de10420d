#!/usr/bin/env bash
# Decoupling (ICLR 2020) on iNaturalist, ResNet-50 from scratch for 200 epochs, then classifiers on
# the frozen backbone: 30 epochs of cRT, 5 of LWS. Takes no validation images out of the training
# set, so there is no tau-norm, which chooses its tau on them. Rates are ImageNet-LT's.
#   decoupling.sh [FOLDER OF THE DATA] [OUT] [inat2018|inat2017] [BACKBONE]
# Takes: not measured. Expect, as published for 2018, 67.6 % by cRT, and 65.8 % by cross-entropy.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} data=${3:-inat2018} backbone=${4:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/$data${other:+-$other}}

ltcli split "$data" --root "$root" --val-per-class 0 -d "$d"
ltcli pretrain --backbone "$backbone" --schedule cosine --epochs 200 --batch-size 512 --lr 0.2 \
    --warmup 0 --weight-decay 1e-4 --no-nesterov -d "$d"
ltcli dump-features -d "$d"
ltcli finetune --method crt --epochs 30 --batch-size 512 --lr 0.2 -d "$d"
ltcli finetune --method lws --epochs 5 --batch-size 512 --lr 0.2 -d "$d"
ltcli finetune --method ncm,logit-adjustment -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
