#!/usr/bin/env bash
# The whole chain on 1,797 real hand-written digits (8x8 pixels, shipped with the package), made
# long-tailed with factor 20: which classifier is better than the plain one, and is that certain?
# Takes about a minute and a half on two cores, most of it starting Python; expect the plain classifier
# near 87 % and balanced ones a few points above it, most of that in the rare classes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
d=${1:-artifacts/digits}

ltcli split digits --imbalance-factor 20 -d "$d"
ltcli pretrain --backbone resnet20 --schedule mislas --epochs 60 --batch-size 32 --weight-decay 5e-4 \
    --padding 1 --no-flip -d "$d"
ltcli dump-features -d "$d"
ltcli covariances -d "$d"
ltcli confusion -d "$d"
for method in cross-entropy crt lws tau-norm ncm balanced-softmax logit-adjustment; do
    ltcli finetune --method "$method" --epochs 30 --batch-size 32 -d "$d"
done
ltcli evaluate -d "$d"
ltcli compare --many-above 50 --few-below 15 -d "$d"
