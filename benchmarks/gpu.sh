#!/usr/bin/env bash
# Figures of a machine with a GPU, under 8 minutes in all. A part whose JSON is there is not measured
# again, so the script goes on where it was stopped; all parts together are OUT/results.json.
#
#     benchmarks/gpu.sh [OUT] [--root DIR] [--tiny]
#
# OUT is build/gpu by default. --root names the folder of CIFAR-10; without it the images are random.
# --tiny tries the parts on a few images. Without a CUDA device a part says that it measured nothing.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="$here/../build/gpu"
if (($#)) && [[ "$1" != --* ]]; then
    out="$1"
    shift
fi
mkdir -p "$out/work"
# Part and limit in seconds.
for part in tests:110 steps:70 pretrain:110 features:30 metasaug:60 bank:75; do
    name="${part%:*}"
    if [[ -e "$out/$name.json" ]]; then
        echo "== $name: already there"
        continue
    fi
    echo "== $name"
    # One part that fails does not keep the others from being measured.
    timeout "${part#*:}" python "$here/gpu.py" "$name" "$out" "$@" || echo "$name: no result" >&2
done
python "$here/gpu.py" join "$out"
