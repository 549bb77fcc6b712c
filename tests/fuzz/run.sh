#!/usr/bin/env bash
# Each libFuzzer target for a while, under ASan and UBSan, one after the other:
#
#   tests/fuzz/run.sh [SECONDS] [TARGET...]      default: 60 s for each
#
# Needs clang 16 or newer with its compiler-rt (FEDLLM_CLANG names another clang++). What a target finds is left in
# build/fuzz/found; a finding becomes a seed in corpus/TARGET with its fix.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
shift || true
clang=${FEDLLM_CLANG:-clang++-16}
command -v "$clang" >/dev/null || { echo "tests/fuzz/run.sh: no $clang; install clang-16 and libclang-rt-16-dev" >&2; exit 2; }
cmake --preset fuzz -DCMAKE_CXX_COMPILER="$clang" >build-fuzz.log 2>&1 || { cat build-fuzz.log; exit 1; }
rm -f build-fuzz.log
cmake --build --preset fuzz --target fuzzers -- --quiet ${FEDLLM_JOBS:+-j"$FEDLLM_JOBS"}
mkdir -p build/fuzz/found
[ $# -gt 0 ] || set -- $(find build/fuzz/tests/fuzz -name 'fuzz_*' -type f -executable -printf '%f\n' | sed 's/^fuzz_//' | sort)
failed=""
for target in "$@"; do
    echo "== $target"
    program=$(find build/fuzz/tests/fuzz -name "fuzz_$target" -type f -executable)
    work=build/fuzz/corpus/$target
    mkdir -p "$work" "tests/fuzz/corpus/$target"
    "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/found/$target-" "$work" "tests/fuzz/corpus/$target" >"build/fuzz/$target.log" 2>&1 ||
        failed="$failed $target"
    grep -E "^stat::number_of_executed_units|^==|ERROR|SUMMARY" "build/fuzz/$target.log" || true
done
[ -z "$failed" ] || { echo "findings:$failed (build/fuzz/TARGET.log)" >&2; exit 1; }
