#!/usr/bin/env bash
# CIFAR-LT, ResNet-32: runs everything that the four papers compare with, on one split, each method
# by its published schedule, and prints the published figures beside the results. Run it again after
# an interruption, or with more seeds: it does only what is missing.
#   papers.sh [FOLDER OF THE DATA] [OUT] [cifar10|cifar100] [FACTOR: 10, 20, 50, 100, 200] [SEEDS]
# Takes 45 to 60 minutes on two cores per pre-training; three times that for bbn, sla, ride and
# hybrid-psc, four times for l2rw and meta-weight-net; minutes each on a large GPU. Expect last
# epochs below the published figures: nearly all of those are the best epoch on the test images.
set -euo pipefail
root=${1:-data} data=${3:-cifar10} factor=${4:-100} seeds=${5:-0}
d=${2:-artifacts/$data-lt-$factor-papers}

# MiSLAS's own numbers. It has none for factors 20 and 200, which take those of the nearest factor.
case $data-$factor in
    cifar10-10 | cifar10-20) mislas=(--smooth-head 0.1 --classifier-rate 0.2) ;;
    cifar10-50) mislas=(--smooth-head 0.2 --classifier-rate 0.2) ;;
    cifar10-*) mislas=(--smooth-head 0.3 --classifier-rate 0.5) ;;
    cifar100-10 | cifar100-20) mislas=(--smooth-head 0.2 --classifier-rate 0.1) ;;
    cifar100-50) mislas=(--smooth-head 0.3 --classifier-rate 0.1) ;;
    *) mislas=(--smooth-head 0.4 --smooth-tail 0.1 --classifier-rate 0.2) ;;
esac
temperature=1
[ "$data" = cifar10 ] || temperature=0.1

pretrain() {  # NAME OPTIONS...
    ltcli pretrain --backbone resnet32 --snapshots 40 --seed "$seed" \
        --out "$d/$1-$seed.safetensors" -d "$d" "${@:2}"
}
bank() {  # NAME
    ltcli dump-features --model "$d/$1-$seed.safetensors" \
        --out "$d/features-$1-$seed.safetensors" -d "$d"
}
finetune() {  # NAME OF THE MODEL, METHOD, OPTIONS...
    ltcli finetune --method "$2" --seed "$seed" --model "$d/$1-$seed.safetensors" \
        --out "$d/$1-$2-$seed.safetensors" -d "$d" "${@:3}"
}

ltcli split "$data" --root "$root" --imbalance-factor "$factor" --protocol holdout -d "$d"
for seed in $seeds; do
    pretrain cross-entropy
    pretrain mixup --mixup 1 --schedule mislas
    for model in cross-entropy mixup; do
        bank "$model"
        features=(--features "$d/features-$model-$seed.safetensors")
        for method in crt lws; do
            finetune "$model" "$method" --snapshots 10 "${features[@]}"
        done
        source=("${features[@]}")
        [ "$data" = cifar10 ] || source=(--data images --shift-bn)
        finetune "$model" mislas --snapshots 10 "${mislas[@]}" "${source[@]}"
        for method in logit-adjustment tau-norm; do
            finetune "$model" "$method" "${features[@]}"
        done
    done
    finetune cross-entropy meta-class-weight --from-epoch 161 --snapshots 40
    finetune cross-entropy class-balanced-finetuning --snapshots 20
    for method in ldam-drw balanced-softmax ce-drw class-balanced focal logit-adjustment \
        remix-drw ldam focal-drw class-balanced-focal ce-drs remix; do
        pretrain "$method" --method "$method"
    done
    pretrain gcl --method gcl
    finetune gcl gcl --snapshots 10
    for method in bbn ride sla meta-weight-net l2rw; do
        pretrain "$method" --method "$method"
    done
    pretrain hybrid-psc --method hybrid-psc --temperature "$temperature"
done
ltcli evaluate -d "$d"
ltcli compare --published -d "$d"
