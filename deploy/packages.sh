# Sourced by demo.sh, tests/run.sh and the Dockerfile: the distribution packages each of them needs.
# Debian 12 and Ubuntu 24.04. Installs only what is missing, with sudo where we are not root.

fedllm_boost_package() {
    # Debian 12's default Boost is 1.74; the coroutine fixes we rely on came with 1.81, which it ships beside it.
    if apt-cache show libboost1.81-dev >/dev/null 2>&1; then echo libboost1.81-dev; else echo libboost-dev; fi
}

fedllm_build_packages() {
    echo "g++ cmake ninja-build ccache pkg-config $(fedllm_boost_package) libssl-dev libprotobuf-dev" \
        "protobuf-compiler libyaml-cpp-dev prometheus-cpp-dev libsqlite3-dev nlohmann-json3-dev libcli11-dev" \
        "libspdlog-dev libfmt-dev libhwy-dev libsystemd-dev zlib1g-dev libcurl4-openssl-dev"
}

fedllm_test_packages() {  # Boost.Context: the CUDA bodies run on the CPU
    local context=libboost-context-dev
    [ "$(fedllm_boost_package)" = libboost-dev ] || context=libboost-context1.81-dev
    echo "$context libgtest-dev libbenchmark-dev prometheus openssl curl sqlite3 procps"
}

fedllm_demo_packages() {  # the texts of the demo's sites; see deploy/demo/README.md
    echo "bible-kjv dict-jargon"
}

fedllm_install() {
    local missing=() package sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    # A fresh machine has no package lists yet, and apt-cache would not find libboost1.81-dev.
    if [ -z "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)" ]; then
        $sudo apt-get update -qq
    fi
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    echo "installing from your distribution: ${missing[*]}"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        >/dev/null || { $sudo apt-get update -qq &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
            >/dev/null; }
}
