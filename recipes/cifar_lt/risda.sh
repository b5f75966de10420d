#!/usr/bin/env bash
# RISDA (AAAI 2022) on CIFAR-LT, ResNet-32, classifier on the baselines' feature bank, three seeds,
# beside its controls: no reasoning (class-balanced ISDA) and no augmentation (class-balanced).
# Shift and strength on CIFAR-100 are the paper's; it has no experiment on CIFAR-10.
#   risda.sh [FOLDER OF THE DATA] [OUT] [cifar10|cifar100] [FACTOR: 10, 20, 50, 100, 200]
# Takes about three minutes on two cores after the pre-training; on CIFAR-10 at factor 100 expect
# 75 to 78 %.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=${1:-data} data=${3:-cifar10} factor=${4:-100}
d=${2:-artifacts/$data-lt-$factor}

options=()
case $data-$factor in
    cifar100-200) options=(--shift 0.5 --strength 1 --head top-k --head-at 20) ;;
    cifar100-100) options=(--shift 0.5 --strength 0.75 --head top-k --head-at 20) ;;
    cifar100-50) options=(--shift 0.75 --strength 1 --head top-k --head-at 20) ;;
    cifar100-20) options=(--shift 0.75 --strength 0.75 --head top-k --head-at 20) ;;
    cifar100-10) options=(--shift 0.5 --strength 0.5 --head top-k --head-at 20) ;;
esac

ltcli split "$data" --root "$root" --imbalance-factor "$factor" --protocol holdout -d "$d"
ltcli pretrain --backbone resnet32 --schedule ldam --snapshots 40 -d "$d"
ltcli dump-features -d "$d"
ltcli covariances -d "$d"
ltcli confusion -d "$d"
for seed in 0 1 2; do
    run=(--seed "$seed" --snapshots 10 -d "$d")
    ltcli finetune --method risda ${options[@]+"${options[@]}"} \
        --out "$d/finetune-risda-$seed.safetensors" "${run[@]}"
    ltcli finetune --method risda ${options[@]+"${options[@]}"} --reasoning none \
        --out "$d/finetune-risda-control-$seed.safetensors" "${run[@]}"
    ltcli finetune --method class-balanced --lr 0.01 \
        --out "$d/finetune-class-balanced-$seed.safetensors" "${run[@]}"
done
ltcli evaluate -d "$d"
ltcli compare -d "$d"
