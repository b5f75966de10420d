#!/usr/bin/env bash
# CIFAR-LT, ResNet-32: trains with cross-entropy for 200 epochs (LDAM-DRW's schedule), then puts
# every classifier for a frozen backbone on it. First sets aside 10 validation images per class;
# tau-norm chooses its tau on them.
#   baselines.sh [FOLDER OF THE DATA] [OUT] [cifar10|cifar100] [FACTOR: 10, 20, 50, 100, 200]
# Takes about an hour on two cores with bf16. On CIFAR-10 at factor 100 expect cross-entropy near
# 71 % (last epoch) and most other rows between 74 and 79 %.
set -euo pipefail
root=${1:-data} data=${3:-cifar10} factor=${4:-100}
d=${2:-artifacts/$data-lt-$factor}

ltcli split "$data" --root "$root" --imbalance-factor "$factor" --protocol holdout -d "$d"
ltcli pretrain --backbone resnet32 --schedule ldam --snapshots 40 -d "$d"
ltcli dump-features -d "$d"
ltcli covariances -d "$d"
ltcli confusion -d "$d"
methods=cross-entropy,class-balanced,balanced-softmax,crt,lws,tau-norm,ncm,logit-adjustment
ltcli finetune --method "$methods" --snapshots 10 -d "$d"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
