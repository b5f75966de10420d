#!/usr/bin/env bash
# RISDA (AAAI 2022) on CIFAR-LT, ResNet-32: trains the classifier on the baselines' feature bank,
# three seeds, beside two controls: no reasoning (class-balanced ISDA), and no augmentation
# (class-balanced). Then trains the whole network from epoch 161, with and without reasoning, one
# seed. On CIFAR-100 shift and strength are the paper's. The paper has no CIFAR-10 experiment.
#   risda.sh [FOLDER OF THE DATA] [OUT] [cifar10|cifar100] [FACTOR: 10, 20, 50, 100, 200]
# Takes about three minutes on two cores after the pre-training, and 25 for the whole network. On
# CIFAR-10 at factor 100 expect 75 to 78 %, with and without reasoning.
set -euo pipefail
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
ltcli dump-features --from-epoch 161 --out "$d/features-161.safetensors" -d "$d"
ltcli confusion --features "$d/features-161.safetensors" --out "$d/confusion-161.safetensors" -d "$d"
whole=(--source running --confusion "$d/confusion-161.safetensors" --data images --train all
    --from-epoch 161 --epochs 40 --batch-size 100 --lr 0.001 --decay steps --milestones 20
    --factors 0.01 --nesterov --pad-mode reflect --snapshots 40 -d "$d")
ltcli finetune --method risda "${whole[@]}" --out "$d/finetune-risda-all.safetensors"
ltcli finetune --method risda --reasoning none "${whole[@]}" \
    --out "$d/finetune-risda-all-control.safetensors"
ltcli evaluate -d "$d"
ltcli compare -d "$d"
