#!/usr/bin/env bash
# STG on ImageNet-LT, ResNet-50: trains with mixup as in mislas.sh, the generator on classes of more
# than 100 images, then the generalised classifier on augmented tail features. The control has
# strength 0. The paper gives neither head classes nor strength here; 1.5 is CIFAR-LT's.
#   stg.sh [FOLDER OF THE DATA] [OUT] [BACKBONE]
# Takes: not measured. Expect, as published, 53.2 % with a memory of 1200 features, 52.6 % without.
set -euo pipefail
# The tag stands for torchvision's image size, crop and filter, which the papers use.
root=${1:-data} backbone=${3:-timm.resnet50.tv_in1k}
other=${backbone#timm.resnet50.tv_in1k}
d=${2:-artifacts/imagenet-lt-mixup${other:+-$other}}
head=(--head min-count --head-at 100)
stg=(--method stg --classifier generalised --epochs 10 --lr 1e-3 --decay cosine)

ltcli split imagenet-lt --root "$root" -d "$d"
ltcli pretrain --backbone "$backbone" --schedule cosine --epochs 180 --batch-size 256 --lr 0.1 \
    --warmup 0 --weight-decay 5e-4 --no-nesterov --mixup 0.2 --jitter 0.4 -d "$d"
ltcli dump-features -d "$d"
ltcli stg-train "${head[@]}" --memory 1200 -d "$d"
for strength in 0 1.5; do
    ltcli finetune "${stg[@]}" --strength "$strength" \
        --out "$d/finetune-stg-$strength.safetensors" -d "$d"
done
ltcli evaluate -d "$d"
ltcli compare -d "$d"
