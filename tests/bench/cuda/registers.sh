#!/usr/bin/env bash
# Registers, stack and spills of every kernel, as ptxas tells them: a table for RESULTS.md. Needs nvcc alone.
#
#   tests/bench/cuda/registers.sh [sm_90a]
set -euo pipefail
cd "$(dirname "$0")/../../.."
export PATH="$PATH:/usr/local/cuda/bin"
architecture=${1:-sm_90a}
for body in kernels/*/*.cu; do
    [ "$body" != kernels/device/gpu_cuda.cu ] || continue
    flags=()
    [[ "$body" != kernels/compress/* ]] || flags=(-fmad=false --expt-relaxed-constexpr)
    nvcc -std=c++20 -O3 -arch="$architecture" "${flags[@]}" -Xptxas=-v -I. -c "$body" -o /dev/null 2>&1 | c++filt |
        awk -v body="${body#kernels/}" '
            /Compiling entry function/ { name = $0; sub(/^[^\x27]*\x27/, "", name); sub(/\x27 for.*/, "", name) }
            /stack frame/ { stack = $1; stores = $5; loads = $9 }
            /Used [0-9]+ registers/ {
                match($0, /Used [0-9]+/)
                used = substr($0, RSTART + 5, RLENGTH - 5)
                gsub(/\([A-Za-z_:]+\)[0-9]|fedllm::kernels::cuda::|\(anonymous namespace\)::|^void /, "", name)
                sub(/\(.*/, "", name)
                printf "| %s | %s | %s | %s | %s |\n", body, name, used, stack, stores + loads
            }'
done | sort -u | sed '1i | file | kernel | registers | stack bytes | spilled bytes |\n|---|---|---|---|---|'
