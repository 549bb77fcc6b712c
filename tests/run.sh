#!/usr/bin/env bash
# Everything that can be tested on this machine: installs what is missing, builds, runs all suites.
#
#   tests/run.sh               the default suite (release build), then the CUDA operations on the CPU under ASan+UBSan
#   tests/run.sh --sanitizers  the unit suites again under ASan+UBSan and under TSan (adds about half an hour)
#   tests/run.sh --fuzz        then 60 s of each libFuzzer target (needs clang 16; tests/fuzz)
#   tests/run.sh --peers       then compare with PyTorch, transformers, peft, bitsandbytes, tokenizers, llama.cpp and the
#                              hub's client, from PyPI, in a virtual environment of gigabytes (tests/peers)
#   tests/run.sh --long        the long forms too: 50 kills, real deadlines, 11,000 strangers (minutes)
#   tests/run.sh --no-install  never touch packages
#
# FEDLLM_ASSETS (default ../shared/assets) holds real models and tokenizers for some tests; they say so and skip
# where it is absent.
set -euo pipefail
cd "$(dirname "$0")/.."

install=yes
sanitizers=no
fuzz=no
peers=no
for argument in "$@"; do
    case "$argument" in
        --sanitizers) sanitizers=yes ;;
        --fuzz) fuzz=yes ;;
        --peers) peers=yes ;;
        --long) export FEDLLM_LONG=1 ;;
        --no-install) install=no ;;
        --help | -h) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "tests/run.sh: unknown option '$argument'; see --help" >&2; exit 2 ;;
    esac
done

# shellcheck source=deploy/packages.sh
source deploy/packages.sh
if [ "$install" = yes ]; then
    # shellcheck disable=SC2046  # the lists are words on purpose
    fedllm_install $(fedllm_build_packages) $(fedllm_test_packages)
fi

suite() {  # suite PRESET [ctest arguments]: configure, build, test
    local preset="$1"
    shift
    echo "== $preset: build"
    cmake --preset "$preset" >"build-$preset.log" 2>&1 || { cat "build-$preset.log"; exit 1; }
    rm -f "build-$preset.log"
    cmake --build --preset "$preset" -- --quiet
    echo "== $preset: test"
    ctest --test-dir "build/$preset" --output-on-failure -j"$(nproc)" "$@"
}

suite release
suite emulation
if [ "$sanitizers" = yes ]; then
    # The whole-system runs are about processes and time; the sanitizers watch the code beneath them.
    suite asan
    suite tsan
fi
if [ "$fuzz" = yes ]; then
    [ "$install" = no ] || fedllm_install clang-16 libclang-rt-16-dev
    tests/fuzz/run.sh 60
fi
if [ "$peers" = yes ]; then
    python=${FEDLLM_PEERS_PYTHON:-build/peers/bin/python}
    if [ ! -x "$python" ]; then
        [ "$install" = no ] || fedllm_install python3-venv
        python3 -m venv build/peers
        build/peers/bin/pip install --quiet -r tests/peers/requirements.txt
    fi
    failed=""
    for peer in tests/peers/*_peer.py; do
        echo "== $peer"
        status=0
        "$python" "$peer" build/release || status=$?
        case $status in
            0) ;;
            77) echo "skipped: $peer" ;;
            *) failed="$failed $peer" ;;
        esac
    done
    [ -z "$failed" ] || { echo "different from their peers:$failed" >&2; exit 1; }
fi
