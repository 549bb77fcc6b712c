#!/usr/bin/env bash
# One federation from nothing, on this machine: installs what is missing, builds, gives three sites three different
# private texts, and lets them improve one small language model together over mutual TLS.
#
#   deploy/demo.sh               the whole of it; repeat it as often as you like
#   deploy/demo.sh --keep        leave server and clients running at the end, to look at the metrics
#   deploy/demo.sh --no-install  never touch packages
#
# Packages come from the distribution (Debian 12, Ubuntu 24.04), with sudo where we are not root. Everything else stays
# under build/: the programs in build/demo, certificates, texts, adapters and logs in build/demo/run.
set -euo pipefail
cd "$(dirname "$0")/.."

install=yes
keep=no
for argument in "$@"; do
    case "$argument" in
        --keep) keep=yes ;;
        --no-install) install=no ;;
        --help | -h) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "deploy/demo.sh: unknown option '$argument'; see --help" >&2; exit 2 ;;
    esac
done

sites=(library lawoffice helpdesk)
base=deploy/demo/base
recipe=configs/recipes/demo.yaml
build=build/demo
run=$build/run
fedllm=$build/tools/fedllm
processes=()
started=$SECONDS

say() { printf '\n\033[1m== %s\033[0m  (%d s)\n' "$*" $((SECONDS - started)); }

fail() {
    echo "deploy/demo.sh: $*" >&2
    exit 1
}

stop_processes() {
    [ ${#processes[@]} -eq 0 ] && return
    kill -TERM "${processes[@]}" 2>/dev/null || true
    wait "${processes[@]}" 2>/dev/null || true
    processes=()
}
trap stop_processes EXIT
trap 'exit 130' INT TERM

# listening PORT: does something accept connections there?
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        listening "$port" || { echo "$port"; return; }
    done
    fail "no free port found between 20000 and 32000"
}

# wait_for_port PORT PROCESS LOG
wait_for_port() {
    for _ in $(seq 150); do
        listening "$1" && return
        kill -0 "$2" 2>/dev/null || { tail -n 20 "$3" >&2; fail "the server ended early; its log is $3"; }
        sleep 0.1
    done
    fail "the server does not answer on port $1; its log is $3"
}

# ------------------------------------------------------------------------------------------------------ programs

if [ "$install" = yes ]; then
    # shellcheck source=deploy/packages.sh
    source deploy/packages.sh
    # shellcheck disable=SC2046  # the lists are words on purpose
    fedllm_install $(fedllm_build_packages) $(fedllm_demo_packages)
fi

say "building (the first time takes some minutes)"
mkdir -p "$build"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFEDLLM_TESTS=OFF >"$build/configure.log" 2>&1 ||
    { cat "$build/configure.log" >&2; fail "configuring failed"; }
cmake --build "$build" --target fedllm fedllm-server fedllm-client

# ----------------------------------------------------------------------------------------------------- three sites

say "three sites, each with its own text"
rm -rf "$run"
mkdir -p "$run"
deploy/demo/make_texts.sh clients "$run/texts"
heldout=()
for site in "${sites[@]}"; do heldout+=(--data "$run/texts/$site/heldout.jsonl"); done

say "certificates, server and clients: four processes, mutual TLS 1.3 on loopback"
port=$(free_port)
admin_port=$(free_port)
"$fedllm" init --dir "$run/hub" --host localhost --host 127.0.0.1 --port "$port" --admin-port "$admin_port" >/dev/null
"$build/server/fedllm-server" --config "$run/hub/server.yaml" >"$run/server.log" 2>&1 &
processes+=($!)
wait_for_port "$port" "$!" "$run/server.log"

threads=$((($(nproc) + ${#sites[@]} - 1) / ${#sites[@]}))  # of each client: they share this machine's cores
for site in "${sites[@]}"; do
    "$fedllm" invite "$site" --dir "$run/hub" --out "$run/$site" >/dev/null
    cat >"$run/$site/client.yaml" <<END
# What a site says about itself; everything about the training comes with the job.
server: {host: localhost, port: $port}
models: {demo-base: $PWD/$base}
data:
  path: $PWD/$run/texts/$site/train.jsonl
  eval_path: $PWD/$run/texts/$site/heldout.jsonl
threads: $threads
END
    "$build/client/fedllm-client" --config "$run/$site/client.yaml" >"$run/$site.log" 2>&1 &
    processes+=($!)
    echo "$site: process $!, log $run/$site.log"
done

# ------------------------------------------------------------------------------------------------------ federation

say "federation"
job=$("$fedllm" job submit "$recipe" --model "$base" --dir "$run/hub" --json | sed -n 's/.*"job": "\(.*\)".*/\1/p')
[ -n "$job" ] || fail "the server took no job; its log is $run/server.log"
"$fedllm" job show "$job" --follow --dir "$run/hub"
"$fedllm" export "$job" --dir "$run/hub" --out "$run/federated" >/dev/null

# ------------------------------------------------------------------------------------------- local training alone

say "the same number of steps by each site alone, to compare with"
for site in "${sites[@]}"; do
    "$fedllm" train "$recipe" --model "$base" --data "$run/texts/$site/train.jsonl" --out "$run/alone-$site" --quiet
done

# ---------------------------------------------------------------------------------------------------------- table

# losses [--adapter FOLDER]: the held-out losses of each site and of all together, on one line
losses() {
    "$fedllm" eval --model "$base" "$@" "${heldout[@]}" --sequence-length 128 |
        awk '$2 ~ /^[0-9]+$/ { printf "%s ", $3 } END { print "" }'
}

row() {  # row NAME LOSSES...
    local name=$1
    shift
    printf '%-26s' "$name"
    printf '%12s' "$@"
    printf '\n'
}

sample() {  # sample PROMPT [--adapter FOLDER]
    local prompt=$1
    shift
    "$fedllm" generate --model "$base" "$@" --prompt "$prompt" --tokens 36 --temperature 0.3 --top-k 40 --seed 7 |
        tr '\n' ' ' | fold -s -w 100 | sed 's/^/    /'
    echo
}

say "held-out loss (nobody trained on these rows; lower is better)"
row "" "${sites[@]}" "everyone"
declare -A everyone
for name in before "${sites[@]}" federated; do
    case "$name" in
        before) adapter=() title="before" ;;
        federated) adapter=(--adapter "$run/federated") title="after federation" ;;
        *) adapter=(--adapter "$run/alone-$name") title="after $name alone" ;;
    esac
    read -ra values <<<"$(losses "${adapter[@]}")"
    row "$title" "${values[@]}"
    everyone[$name]=${values[-1]}
done
best=$(for site in "${sites[@]}"; do echo "${everyone[$site]} $site"; done | sort -n | head -n 1)
awk -v federated="${everyone[federated]}" -v alone="${best% *}" -v site="${best#* }" 'BEGIN {
    printf "\nOn everyone'\''s text the federated adapter is %s than the best that one site trained alone (%s): %s, %s.\n",
           federated < alone ? "better" : "NOT better", site, federated, alone }'

say "the same prompts, before and after"
for prompt in "And it came to pass" "This License" "hacker:"; do
    echo "  \"$prompt\""
    echo "  before:"
    sample "$prompt"
    echo "  after:"
    sample "$prompt" --adapter "$run/federated"
done

say "done"
echo "adapter:  $run/federated (PEFT layout: peft and transformers load it over $base)"
echo "logs:     $run/*.log"
if [ "$keep" = yes ]; then
    echo "metrics:  http://127.0.0.1:$admin_port/metrics (server and clients go on; end them with: kill ${processes[*]})"
    trap - EXIT
else
    echo "metrics:  http://127.0.0.1:$admin_port/metrics (while it runs; deploy/demo.sh --keep leaves it running)"
fi
