#!/usr/bin/env bash
# The image data sets of the benchmark table (mnist, fashion-mnist, cifar-10) on a CUDA device: all methods, five seeds
# each. From the root of the repository:
#
#   benchmarks/gpu_table.sh --data-dir ~/data            # step after step until all is done
#   benchmarks/gpu_table.sh --data-dir ~/data --once     # one step of at most ten minutes; give it again to go on
#
# A step stops by itself with everything saved; what has ended is in results/table, what has not in runs/table. All
# other options go to `lpsphere reproduce table` and win over those given here: --cells, --methods, --seeds,
# --processes (networks trained side by side on the device), --minutes.
set -euo pipefail

once=false
options=()
seeds=(--seeds 5)
for word in "$@"; do
  case $word in
    --once) once=true ;;
    -h | --help)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
      exit 0
      ;;
    *)
      options+=("$word")
      [[ $word != --search ]] || seeds=()  # which has splits instead
      ;;
  esac
done

lpsphere=$(command -v lpsphere || echo "$(dirname "$0")/../.venv/bin/lpsphere")
said=$(mktemp)
trap 'rm -f "$said"' EXIT

while true; do
  "$lpsphere" reproduce table --cells mnist,fashion-mnist,cifar-10 \
    --methods semi-pruning,dense,static,set,rigl,snip,gmp ${seeds[@]+"${seeds[@]}"} --device cuda --minutes 9 \
    ${options[@]+"${options[@]}"} | tee -i "$said" # which outlives Ctrl-C, to show what is said then
  if ! grep -q "give the same command again" "$said"; then
    echo "all done"
    break
  fi
  if $once; then
    break
  fi
done
