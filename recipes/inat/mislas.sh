#!/usr/bin/env bash
# MiSLAS (CVPR 2021) on iNaturalist, ResNet-50: trains with mixup for 200 epochs, then with
# label-aware smoothing and shifted batch-norms, beside cRT and LWS after the same mixup. The numbers
# are those of the released code; mixup's alpha is ImageNet-LT's.
#   mislas.sh [FOLDER OF THE DATA] [OUT] [inat2018|inat2017] [BACKBONE]
# Takes: not measured. Expect more than 67.6 %, which is printed for cRT without mixup on 2018. No
# figure for MiSLAS itself has been checked against its paper.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} data=${3:-inat2018} backbone=${4:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/$data-mixup${other:+-$other}}

ltcli split "$data" --root "$root" --val-per-class 0 -d "$d"
ltcli pretrain --backbone "$backbone" --schedule cosine --epochs 200 --batch-size 256 --lr 0.1 \
    --warmup 0 --weight-decay 1e-4 --no-nesterov --mixup 0.2 --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli finetune --method mislas --data images --shift-bn --smooth-head 0.3 --classifier-rate 0.05 \
    --epochs 10 --batch-size 256 --lr 0.1 --weight-decay 1e-4 --jitter 0.4 -d "$d"
ltcli finetune --method crt --epochs 10 --batch-size 256 -d "$d"
ltcli finetune --method lws --epochs 5 --batch-size 256 -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
