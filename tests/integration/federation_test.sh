#!/usr/bin/env bash
# Whole federations of real processes over real TLS: the promises a user relies on.
#   federation_test.sh BIN_DIR CASE      CASE: determinism | client_killed | server_killed | refusals | observability | tools | memory | downloads
# BIN_DIR is a build folder. Prints what it sees; ends with status 0 only if every promise held.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=$1
case_name=$2
fedllm=$bin/tools/fedllm
base=deploy/demo/base
work=$(mktemp -d)
sites=(ash birch cedar)
declare -A pids=()
server_pid=""

fail() {
    echo "FAILED: $*" >&2
    tail -n 30 "$work"/*/*.log >&2 || true
    exit 1
}

cleanup() {
    kill -CONT "${pids[@]}" 2>/dev/null || true
    kill -KILL "${pids[@]}" ${server_pid:+"$server_pid"} 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# wait_until SECONDS WHAT COMMAND...
wait_until() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "timed out waiting for $what"
        sleep 0.1
    done
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        listening "$port" || { echo "$port"; return; }
    done
}

# Three sites with texts of their own, and a job that takes a few seconds.
prepare() {  # prepare NAME MINIMUM
    hub=$work/$1
    port=$(free_port)
    admin=$(free_port)
    mkdir -p "$hub"
    "$fedllm" init --dir "$hub" --host 127.0.0.1 --host localhost --port "$port" --admin-port "$admin" >/dev/null
    for site in "${sites[@]}"; do
        "$fedllm" invite "$site" --dir "$hub" --out "$hub/$site" >/dev/null
        awk -v site="$site" 'BEGIN {
            srand(length(site) + index(site, "r")); split("the of and tree leaf root bark wind rain seed", w, " ")
            for (row = 0; row < 40; ++row) {
                text = "In the " site " wood"
                for (i = 0; i < 30; ++i) text = text " " w[1 + int(rand() * 10)]
                printf "{\"text\": \"%s %s.\"}\n", text, site
            } }' >"$hub/$site/data.jsonl"
        cat >"$hub/$site/client.yaml" <<END
server: {host: 127.0.0.1, port: $port}
models: {demo-base: $PWD/$base}
data: {path: data.jsonl, eval_fraction: 0.2}
device: cpu
threads: 1
END
    done
    cat >"$hub/job.yaml" <<END
name: integration
base_model: demo-base
seed: 7
lora: {rank: 4, alpha: 8, target_modules: [q_proj, v_proj]}
rounds: 3
clients_per_round: 3
clients_minimum: $2
samples_max: 1000
train:
  local_steps: 12
  batch_rows: 4
  sequence_length: 64
END
}

start_server() {
    "$bin/server/fedllm-server" --config "$hub/server.yaml" >>"$hub/server.log" 2>&1 &
    server_pid=$!
    wait_until 20 "the server" listening "$port"
}

start_client() {
    "$bin/client/fedllm-client" --config "$hub/$1/client.yaml" >>"$hub/$1.log" 2>&1 &
    pids[$1]=$!
}

stop_all() {  # SIGTERM; every program must end with status 0 within 5 seconds
    local name begun=$SECONDS
    kill -TERM "${pids[@]}" "$server_pid"
    for name in "${!pids[@]}"; do
        wait "${pids[$name]}" || fail "$name ended with status $? on SIGTERM"
    done
    wait "$server_pid" || fail "the server ended with status $? on SIGTERM"
    [ $((SECONDS - begun)) -le 6 ] || fail "stopping took $((SECONDS - begun)) s"
    pids=()
    server_pid=""
}

submit() { "$fedllm" job submit "$hub/job.yaml" --model "$base" --dir "$hub" --json >/dev/null; }
finish() { timeout 120 "$fedllm" job show j1 --follow --dir "$hub" || fail "the job did not finish"; }
report() { "$fedllm" job show j1 --dir "$hub" --json; }
digest() { report | sed -n 's/^  "model_digest": "\(.*\)",$/\1/p'; }
accepted_lines() { grep -c "update accepted" "$hub/server.log" || true; }
accepted_at_least() { [ "$(accepted_lines)" -ge "$1" ]; }

undisturbed() {  # undisturbed NAME: a run of all three; leaves its digest in $digest
    prepare "$1" 3
    start_server
    for site in "${sites[@]}"; do start_client "$site"; done
    submit
    finish
    digest=$(digest)
    stop_all
    echo "$1: $digest"
}

determinism() {
    undisturbed first
    local first=$digest
    prepare second 3
    start_server
    # Another order of arrival: the first site joins last and is held up in the middle of a round.
    for site in cedar birch ash; do start_client "$site"; done
    submit
    wait_until 60 "a first update" accepted_at_least 1
    kill -STOP "${pids[birch]}"
    sleep 1
    kill -CONT "${pids[birch]}"
    finish
    digest=$(digest)
    stop_all
    echo "second: $digest"
    [ "$first" = "$digest" ] || fail "the same job and seed gave $first and $digest"
}

client_killed() {
    prepare killed 2
    start_server
    for site in "${sites[@]}"; do start_client "$site"; done
    submit
    wait_until 60 "the first round's updates" accepted_at_least 3
    kill -STOP "${pids[cedar]}"  # so that it is surely in the middle of a round
    wait_until 60 "the others' updates" accepted_at_least 5
    kill -KILL "${pids[cedar]}"
    unset "pids[cedar]"
    wait_until 60 "the round to close without it" grep -q "round committed.*round=1 accepted=2" "$hub/server.log"
    start_client cedar
    finish
    stop_all
}

server_killed() {
    undisturbed undisturbed
    local expected=$digest
    prepare crashed 3
    start_server
    for site in "${sites[@]}"; do start_client "$site"; done
    submit
    local round
    for round in 1 2; do
        # Hold one site, so that the round is surely open with two updates acknowledged; then the plug is pulled.
        wait_until 60 "round $round" accepted_at_least $((3 * (round - 1)))
        kill -STOP "${pids[cedar]}"
        wait_until 60 "two updates of round $round" accepted_at_least $((3 * round - 1))
        kill -KILL "$server_pid"
        wait "$server_pid" 2>/dev/null || true
        kill -CONT "${pids[cedar]}"
        local begun=$SECONDS
        start_server
        echo "round $round: killed, serving again after $((SECONDS - begun)) s"
    done
    finish
    digest=$(digest)
    echo "after two kills: $digest"
    # Nine updates in three rounds: each acknowledged once, none sent again.
    local repeated
    repeated=$(grep "update accepted" "$hub/server.log" | sed 's/.*client=\([a-z]*\) .*round=\([0-9]*\) .*/\1 \2/' |
        sort | uniq -d)
    [ -z "$repeated" ] || fail "acknowledged more than once: $repeated"
    [ "$(accepted_lines)" -eq 9 ] || fail "$(accepted_lines) updates were accepted, expected 9"
    stop_all
    [ "$expected" = "$digest" ] || fail "undisturbed gave $expected, two kills gave $digest"
}

handshake() {  # handshake OPTIONS...: tries to speak TLS to the server, never fails itself
    timeout 5 openssl s_client -connect "127.0.0.1:$port" -alpn fedllm/1 "$@" </dev/null >/dev/null 2>&1 || true
}
logged() { grep -q "$1" "$hub/server.log"; }
metric() { curl -sf "http://127.0.0.1:$admin/metrics" | grep -q "$1"; }

refusals() {
    prepare refusals 3
    "$fedllm" init --dir "$work/foreign" --host localhost --port "$port" >/dev/null
    start_server
    handshake -tls1_3
    wait_until 10 "a refusal without certificate" logged "connection refused.*peer did not return a certificate"
    handshake -tls1_3 -cert "$work/foreign/operator.crt" -key "$work/foreign/operator.key"
    wait_until 10 "a refusal of a foreign authority" logged "connection refused.*self-signed\|connection refused.*unable to get"
    handshake -tls1_2 -cert "$hub/operator.crt" -key "$hub/operator.key"
    wait_until 10 "a refusal of TLS 1.2" logged "connection refused.*\(unsupported protocol\|version\)"
    printf 'GET / HTTP/1.1\r\n\r\n' >"/dev/tcp/127.0.0.1/$port" || true
    metric 'fedllm_connections_refused_total{reason="peer_untrusted"}' || fail "refusals are not counted"
    # Garbage inside a good TLS connection: a frame far too long, then HTTP.
    (printf '\xff\xff\xff\xff\x01\x00\x00\x00GET /'; sleep 1) | timeout 5 openssl s_client -quiet -tls1_3 \
        -alpn fedllm/1 -connect "127.0.0.1:$port" -cert "$hub/ash/client.crt" -key "$hub/ash/client.key" \
        >/dev/null 2>&1 || true
    wait_until 10 "a refusal of a long frame" metric 'fedllm_messages_refused_total{reason="too_large"} 1'
    # A second authority's operator and a job that cannot be: refused in words, nothing breaks.
    ! "$fedllm" job list --dir "$work/foreign" 2>"$work/said" || fail "a foreign operator was let in"
    sed -i 's/clients_minimum: 3/clients_minimum: 9/' "$hub/job.yaml"
    ! "$fedllm" job submit "$hub/job.yaml" --model "$base" --dir "$hub" 2>"$work/said" || fail "an impossible job"
    grep -q "clients_minimum" "$work/said" || fail "the refusal does not name the key: $(cat "$work/said")"
    sed -i 's/clients_minimum: 9/clients_minimum: 3/' "$hub/job.yaml"
    # After all that the federation works.
    for site in "${sites[@]}"; do start_client "$site"; done
    submit
    finish
    stop_all
}

prometheus_has_loss() {
    curl -sf "http://127.0.0.1:$1/api/v1/query?query=fedllm_eval_loss" | grep -q '"job":"j1"\|exported_job":"j1"'
}

observability() {
    prepare observability 3
    start_server
    for site in "${sites[@]}"; do start_client "$site"; done
    submit
    finish
    curl -sf "http://127.0.0.1:$admin/healthz" >/dev/null || fail "/healthz does not answer"
    [ "$(curl -s "http://127.0.0.1:$admin/readyz")" = ready ] || fail "/readyz is not ready"
    curl -sf "http://127.0.0.1:$admin/metrics" >"$work/metrics"
    if command -v promtool >/dev/null; then
        promtool check metrics <"$work/metrics" || fail "promtool does not like the metrics"
        local scrape
        scrape=$(free_port)
        sed "s/127.0.0.1:7480/127.0.0.1:$admin/; s/scrape_interval: .*/scrape_interval: 1s/; /rule_files/,+1d" \
            deploy/prometheus/prometheus.yml >"$work/prometheus.yml"
        prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" \
            --web.listen-address="127.0.0.1:$scrape" >"$hub/prometheus.log" 2>&1 &
        pids[prometheus]=$!
        wait_until 30 "Prometheus to have the loss" prometheus_has_loss "$scrape"
        kill -TERM "${pids[prometheus]}"
        wait "${pids[prometheus]}" || true
        unset "pids[prometheus]"
    else
        echo "promtool is not installed: the format was not checked"
    fi
    stop_all
}

tools() {
    prepare tools 3
    start_server
    for site in "${sites[@]}"; do start_client "$site"; done
    submit
    finish
    "$fedllm" export j1 --dir "$hub" --out "$work/adapter" >/dev/null
    [ "$(sha256sum "$work/adapter/adapter_model.safetensors" | cut -d' ' -f1)" = "$(digest)" ] ||
        fail "the exported adapter is not the version the server names"
    cmp "$work/adapter/adapter_model.safetensors" "$hub/state/adapters/j1/latest/adapter_model.safetensors"
    local before after
    loss() { "$fedllm" eval --model "$@" --data "$hub/ash/data.jsonl" --sequence-length 64 --json |
        sed -n 's/^  "loss": \(.*\),$/\1/p'; }
    before=$(loss "$base")
    after=$(loss "$base" --adapter "$work/adapter")
    echo "loss on ash's text: $before before, $after after"
    awk -v b="$before" -v a="$after" 'BEGIN { exit !(a < b) }' || fail "federation did not lower the loss"
    # The other forms of the same adapter.
    "$fedllm" export j1 --dir "$hub" --format merged --type f32 --model "$base" --out "$work/merged" >/dev/null
    local merged
    merged=$(loss "$work/merged")
    awk -v a="$after" -v m="$merged" 'BEGIN { exit !(a - m < 1e-4 && m - a < 1e-4) }' ||
        fail "the merged model has the loss $merged, base and adapter have $after"
    "$fedllm" export --adapter "$work/adapter" --format gguf --model "$base" --out "$work/adapter.gguf" >/dev/null
    [ "$(head -c 4 "$work/adapter.gguf")" = GGUF ] || fail "export --format gguf made no GGUF file"
    "$fedllm" generate --model "$base" --adapter "$work/adapter" --prompt "In the ash wood" --tokens 8 --stream
    printf '{"question": "Tree?", "choices": ["ash", "birch", "qxqx"], "answer": "A"}\n' >"$work/choices.jsonl"
    "$fedllm" eval --model "$base" --data "$work/choices.jsonl" --json | grep -q '"questions": 1' ||
        fail "eval did not see a multiple-choice question"
    "$fedllm" train "$hub/job.yaml" --model "$base" --data "$hub/ash/data.jsonl" --out "$work/alone" --quiet
    stop_all
    # Bad input: status 1 and words that name the thing.
    refused() {  # refused PATTERN COMMAND...
        local pattern=$1
        shift
        if "$@" >"$work/said" 2>&1; then fail "succeeded but should not: $*"; fi
        grep -q "$pattern" "$work/said" || fail "'$*' said: $(cat "$work/said")"
    }
    refused "no/such" "$fedllm" eval --model no/such --data "$hub/ash/data.jsonl"
    refused "fedllm pull no/such" "$fedllm" generate --model no/such --prompt x
    refused "write ORG/NAME" "$fedllm" pull nonsense
    printf '{"text": "fine"}\n{"text": \n' >"$work/broken.jsonl"
    refused "broken.jsonl:2" "$fedllm" eval --model "$base" --data "$work/broken.jsonl"
    printf 'listen:\n  prot: 1\n' >"$work/server.yaml"
    refused "did you mean 'listen.port'" "$bin/server/fedllm-server" --config "$work/server.yaml"
    refused "already" "$fedllm" init --dir "$hub" --host localhost
    chmod 0644 "$hub/operator.key"
    refused "operator.key.*chmod" "$fedllm" job list --dir "$hub"
}

# Versions come as steps, and the first from the seed: what a site downloads is the steps and nothing else. A site that
# lost everything catches up, and the run gives the same bits.
downloads() {
    local run expected="" steps down
    for run in first second; do
        prepare "downloads-$run" 3
        echo "download: {codec: deadzone}" >>"$hub/job.yaml"
        start_server
        for site in "${sites[@]}"; do start_client "$site"; done
        submit
        if [ "$run" = second ]; then
            wait_until 60 "the first round" grep -q "round committed.*round=0" "$hub/server.log"
            kill -KILL "${pids[cedar]}"
            wait "${pids[cedar]}" 2>/dev/null || true
            rm -rf "$hub/cedar/state/versions"
            start_client cedar
        fi
        finish
        steps=$(cat "$hub/state/versions"/*.step | wc -c)
        down=$(curl -sf "http://127.0.0.1:$admin/metrics" |
            sed -n 's/^fedllm_client_bytes_total{client="ash",direction="down"} //p')
        digest=$(digest)
        stop_all
        echo "$run: $digest; ash downloaded $down bytes, the steps have $steps," \
            "a version has $(stat -c %s "$hub/state/versions/$digest.safetensors")"
        [ "$down" = "$steps" ] || fail "ash downloaded $down bytes, the steps have $steps"
        [ "${expected:=$digest}" = "$digest" ] || fail "the same job gave $expected and $digest"
    done
}

# What `fedllm check` predicts for a job is what a client then takes, and a client with less refuses by the numbers.
memory() {
    sites=(ash)
    prepare memory 1
    mkdir "$work/model"
    cat >"$work/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 6,
 "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1408, "vocab_size": 4096,
 "max_position_embeddings": 256, "tie_word_embeddings": true, "rms_norm_eps": 1e-5}
END
    sed -e 's/^lora:.*/method: full/' -e 's/^rounds:.*/rounds: 1/' -e 's/local_steps: 12/local_steps: 1/' \
        "$hub/job.yaml" >"$work/full.yaml"
    "$fedllm" train "$work/full.yaml" --config "$work/config.json" --tokenizer "$base/tokenizer.json" \
        --data "$hub/ash/data.jsonl" --out "$work/model" --quiet
    sed -i -e 's/_per_round: 3/_per_round: 1/' -e 's/^rounds:.*/rounds: 1/' -e 's/local_steps: 12/local_steps: 2/' \
        -e 's/batch_rows: 4/batch_rows: 8/' -e 's/sequence_length: 64/sequence_length: 256/' "$hub/job.yaml"
    sed -i "s|^models:.*|models: {demo-base: $work/model}|" "$hub/ash/client.yaml"
    predicted=$("$fedllm" check "$work/model" "$hub/job.yaml" --threads 1 --json |
        sed -n 's/.*"total_bytes": \([0-9]*\).*/\1/p' | head -n 1)
    start_server
    start_client ash
    "$fedllm" job submit "$hub/job.yaml" --model "$work/model" --dir "$hub" >/dev/null
    finish
    taken=$(($(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/${pids[ash]}/status") * 1024))
    stop_all
    echo "predicted $predicted bytes, taken $taken"
    [ $((predicted * 10)) -gt $((taken * 9)) ] && [ $((predicted * 10)) -lt $((taken * 11)) ] ||
        fail "predicted $predicted bytes, taken $taken: more than a tenth apart"
    if "$fedllm" check "$work/model" "$hub/job.yaml" --memory-gib 0.1 >"$work/said" 2>&1; then
        fail "a job that cannot fit passed the check"
    fi
    grep -q "the job needs" "$work/said" || fail "check said: $(cat "$work/said")"
    echo "memory_max: 100 MiB" >>"$hub/ash/client.yaml"
    start_server
    start_client ash
    "$fedllm" job submit "$hub/job.yaml" --model "$work/model" --dir "$hub" >/dev/null
    wait_until 60 "the refusal" grep -q "the job needs" "$hub/ash.log"
    stop_all
}

"$case_name"
echo "ok: $case_name"
