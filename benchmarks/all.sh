#!/usr/bin/env bash
# All benchmarks, one after the other, on one thread; ratios are within one run. Takes about half an
# hour, and 2 GB in the temporary folder.
#
#     benchmarks/all.sh [--check]     --check: exit code 1 where a ratio misses its bound
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_NUM_THREADS=1
code=0
for name in startup split_lists pretrain inference loading artifacts comparing moments isda metasaug bank; do
    echo "== $name"
    status=0
    python "$name.py" || status=$?
    # 3: a ratio missed its bound. Anything else is a failure of the benchmark itself.
    if ((status == 3)) && [[ "${1:-}" != --check ]]; then status=0; fi
    if ((status)); then code=1; fi
done
exit "$code"
