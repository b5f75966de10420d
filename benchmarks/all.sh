#!/usr/bin/env bash
# The whole suite, one after the other; ratios are within one run. Takes about half an hour on two
# cores, and 2 GB in the temporary folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
for name in split_lists pretrain inference loading moments isda metasaug commands; do
    echo "== $name"
    python "$name.py"
done
