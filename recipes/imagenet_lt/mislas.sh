#!/usr/bin/env bash
# MiSLAS (CVPR 2021) on ImageNet-LT, ResNet-50: trains with mixup for 180 epochs, then with
# label-aware smoothing and shifted batch-norms, beside cRT and LWS after the same mixup. The numbers
# are those of the released code.
#   mislas.sh [FOLDER OF THE DATA] [OUT] [BACKBONE]
# Takes: not measured. Expect, as published for ResNet-50, 45.5 % after mixup, 51.7 % by cRT, 52.0 %
# by LWS and 52.7 % by MiSLAS.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} backbone=${3:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/imagenet-lt-mixup${other:+-$other}}

ltcli split imagenet-lt --root "$root" -d "$d"
ltcli pretrain --backbone "$backbone" --schedule cosine --epochs 180 --batch-size 256 --lr 0.1 \
    --warmup 0 --weight-decay 5e-4 --no-nesterov --mixup 0.2 --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli finetune --method mislas --data images --shift-bn --smooth-head 0.3 --classifier-rate 0.05 \
    --epochs 10 --batch-size 256 --lr 0.1 --weight-decay 5e-4 --jitter 0.4 -d "$d"
ltcli finetune --method crt --epochs 10 --batch-size 256 -d "$d"
ltcli finetune --method lws --epochs 5 --batch-size 256 -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
