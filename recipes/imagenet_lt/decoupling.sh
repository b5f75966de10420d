#!/usr/bin/env bash
# Decoupling (ICLR 2020) on ImageNet-LT: trains with cross-entropy for 90 epochs, then classifiers on
# the frozen backbone. Epochs, batch size and rate of the first stage, and the epochs of cRT and LWS,
# are those of the released code.
#   decoupling.sh [FOLDER OF THE DATA] [OUT] [BACKBONE]
# Takes: not measured. Expect cRT and LWS below 51.7 and 52.0 %, which others print for ResNet-50
# after mixup (see mislas.sh). Cross-entropy alone is printed as 38.9 to 44.6 %.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} backbone=${3:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/imagenet-lt${other:+-$other}}

ltcli split imagenet-lt --root "$root" -d "$d"
ltcli pretrain --backbone "$backbone" --schedule cosine --epochs 90 --batch-size 512 --lr 0.2 \
    --warmup 0 --weight-decay 5e-4 --no-nesterov --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli finetune --method crt --epochs 10 --batch-size 512 --lr 0.2 -d "$d"
ltcli finetune --method lws --epochs 5 --batch-size 512 --lr 0.2 -d "$d"
ltcli finetune --method tau-norm,ncm,logit-adjustment -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
