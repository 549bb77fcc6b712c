#!/usr/bin/env bash
# Everything that only a GPU can tell, on a machine that has one and little else: cmake, g++ and CUDA's toolkit.
#
#   tests/gpu.sh                build the CUDA operations and the engine, run their cases on the GPU, then again under
#                               compute-sanitizer (memcheck, racecheck); ends within 8 minutes
#   tests/gpu.sh --bench [PART] then measure (tests/bench/cuda): the operations, whole steps beside their goals, and
#                               PyTorch's steps where FEDLLM_PYTHON (python3) has it; ends within 13 minutes more. PART
#                               of a name (8B, say) measures what has it alone
#   tests/gpu.sh --only-bench [PART]  the same without the cases
#
# Exit: 0 all that ran passed (what this machine cannot run, a sanitizer say, is listed); 1 something failed or did not
# end in time; 77 nothing could run here: no GPU, no nvcc or no cmake.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

seconds_max=${FEDLLM_GPU_SECONDS:-460}
build=build/gpu
bench=no
case "${1:-}" in
    "") ;;
    --bench) bench=yes ;;
    --only-bench) bench=only ;;
    --help | -h) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "tests/gpu.sh: unknown option '$1'; see --help" >&2; exit 2 ;;
esac

nothing() { echo "tests/gpu.sh: nothing was tested: $1" >&2; exit 77; }
export PATH="$PATH:/usr/local/cuda/bin"
command -v nvcc >/dev/null || nothing "no nvcc (CUDA's toolkit)"
command -v cmake >/dev/null || nothing "no cmake"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
[[ "$capability" =~ ^[0-9]+$ ]] || nothing "no GPU that nvidia-smi knows"
[ "$capability" -lt 90 ] || capability="${capability}a"  # this very generation's instructions too

rows=()
failed=0
row() { rows+=("$(printf '%-34s %-12s %6s  %s' "$1" "$2" "$3" "$4")"); }
table() {
    echo
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    printf '%-34s %-12s %6s  %s\n' program what s result
    printf '%s\n' "${rows[@]}"
    echo "total: $SECONDS s, $failed failed"
}

mkdir -p "$build"
generator=(); command -v ninja >/dev/null && generator=(-G Ninja)
cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DFEDLLM_KERNELS_ONLY=ON \
    "-DCMAKE_CUDA_ARCHITECTURES=$capability" >"$build/configure.log" 2>&1 ||
    { cat "$build/configure.log"; echo "tests/gpu.sh: cannot be configured" >&2; exit 1; }
# What can be built is tested, though something else cannot (-k, in ninja's words or make's).
keep=(-k); [ ${#generator[@]} -eq 0 ] || keep=(-k 0)
targets=(); [ "$bench" != only ] || targets=(--target step_bench ops_bench)
if ! timeout "$seconds_max" cmake --build "$build" -j"$(nproc)" "${targets[@]}" -- "${keep[@]}" >"$build/build.log" 2>&1; then
    grep -E -A3 'error|FAILED' "$build/build.log" | tail -40
    row "(all)" build "$SECONDS" FAILED
    failed=1
else
    row "(all)" build "$SECONDS" passed
fi

# run PROGRAM WHAT COMMAND...: one row, in a file of its own, for many run at once.
run() {
    local program=$1 what=$2 begin=$SECONDS log status=0 result
    shift 2
    log="$build/logs/$(basename "$program").$what"
    local left=$((seconds_max - SECONDS))
    if [ "$left" -lt 5 ]; then
        status=124
    else
        timeout "$((left < 200 ? left : 200))" "$@" "$program" >"$log" 2>&1 || status=$?
    fi
    if [ $status -ne 0 ] && grep -qs 'Device not supported' "$log"; then
        result="cannot run here: $what does not support this machine"
    else
        case $status in
            0) result="passed: $(grep -s 'cases,' "$log" | tail -1)" ;;
            77) result="FAILED: CUDA's runtime sees no GPU here" ;;
            124) result="FAILED: not done in time" ;;
            *) result="FAILED with $status: $(grep -sm1 -E 'FAILED|ERROR|=========  *[A-Z]' "$log")" ;;
        esac
    fi
    printf '%s\t%s\t%s\t%s\n' "$(basename "$program")" "$what" $((SECONDS - begin)) "$result" >"$log.row"
}
# each WHAT AT_ONCE COMMAND...: every program.
each() {
    local what=$1 at_once=$2 program name seconds result
    shift 2
    for program in "${programs[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
        run "$program" "$what" "$@" &
    done
    wait
    for program in "${programs[@]}"; do
        IFS=$'\t' read -r name what seconds result <"$build/logs/$(basename "$program").$what.row"
        row "$name" "$what" "$seconds" "$result"
        case "$result" in FAILED*) failed=$((failed + 1)); tail -20 "$build/logs/$name.$what" 2>/dev/null ;; esac
    done
}

rm -rf "$build/logs" && mkdir -p "$build/logs"
if [ "$bench" != only ]; then
    mapfile -t programs < <(find "$build" -name 'cuda_*' -type f -perm -u+x | sort)
    [ ${#programs[@]} -gt 0 ] || { row "(none)" run 0 "FAILED: nothing was built"; table; exit 1; }
    each run 1
    if command -v compute-sanitizer >/dev/null; then
        # Calls that fail are the programs' to check (some fail on purpose); races within cuBLASLt are not ours to find.
        mapfile -t programs < <(printf '%s\n' "${programs[@]}" | grep -v /cuda_curve_cases)  # the engine's cases, for longer
        each memcheck 4 compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 3
        mapfile -t programs < <(printf '%s\n' "${programs[@]}" | grep /tests/kernels/)  # the engine's kernels are theirs
        each racecheck 4 compute-sanitizer --tool racecheck --kernel-name kernel_substring=fedllm --error-exitcode 3
    else
        row "(all)" sanitizer 0 "cannot run here: no compute-sanitizer"
    fi
fi
# measure PROGRAM SECONDS COMMAND...: what it prints is the result.
measure() {
    local program=$1 seconds=$2 begin=$SECONDS status=0 result
    shift 2
    echo && timeout "$seconds" "$@" 2>&1 | tee "$build/logs/$program.bench"
    status=${PIPESTATUS[0]}
    case $status in
        0) result="measured: $build/logs/$program.bench" ;;
        77) result="cannot run here: $(tail -1 "$build/logs/$program.bench")" ;;
        *) result="FAILED with $status (124: not done in $seconds s)"; failed=$((failed + 1)) ;;
    esac
    row "$program" bench $((SECONDS - begin)) "$result"
}
if [ "$bench" != no ]; then
    for program in step_bench ops_bench; do
        measure "$program" 250 "$(find "$build" -name "$program" -type f)" ${2:+"$2"}
    done
    model=all
    case "${2:-}" in *8B*) model=8B ;; *1B*) model=1B ;; *135M*) model=135M ;; esac
    python=${FEDLLM_PYTHON:-python3}
    if command -v "$python" >/dev/null; then
        measure torch_step 280 "$python" tests/bench/cuda/torch_step.py "$model"
    else
        row torch_step bench 0 "cannot run here: no $python"
    fi
fi
table
[ "$failed" -eq 0 ]
