#!/usr/bin/env bash
# Everything that can be tested on this machine: installs what is missing, builds, runs all suites.
#
#   tests/run.sh               the default suite (release build)
#   tests/run.sh --sanitizers  the unit suites again under ASan+UBSan and under TSan (adds about half an hour)
#   tests/run.sh --no-install  never touch packages
#
# FEDLLM_ASSETS (default ../shared/assets) holds real models and tokenizers for some tests; they say so and skip
# where it is absent.
set -euo pipefail
cd "$(dirname "$0")/.."

install=yes
sanitizers=no
for argument in "$@"; do
    case "$argument" in
        --sanitizers) sanitizers=yes ;;
        --no-install) install=no ;;
        --help | -h) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
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
if [ "$sanitizers" = yes ]; then
    # The whole-system runs are about processes and time; the sanitizers watch the code beneath them.
    suite asan
    suite tsan
fi
