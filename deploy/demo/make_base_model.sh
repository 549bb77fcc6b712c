#!/bin/sh
# Rebuilds the demo's base model from nothing: the corpus from packages, the tokenizer from the corpus, the weights by
# our own full-parameter training (about 70 Tflop: minutes on two free cores).
#
#   make_base_model.sh FEDLLM DIR    FEDLLM: the built program; DIR: where the model folder goes
#
# Needs: apt-get install fortunes fortunes-min wordnet-base manpages manpages-dev
set -eu

here=$(cd "$(dirname "$0")" && pwd)
[ $# -eq 2 ] || { echo "usage: make_base_model.sh FEDLLM DIR" >&2; exit 1; }
fedllm=$1
out=$2

mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$here/make_texts.sh" base "$work/corpus.jsonl"
"$fedllm" tokenizer "$work/corpus.jsonl" --vocab 4096 --out "$work/tokenizer.json"
"$fedllm" train "$here/base.yaml" --config "$here/base_config.json" --tokenizer "$work/tokenizer.json" \
    --data "$work/corpus.jsonl" --out "$out"
printf '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}\n' \
    >"$out/tokenizer_config.json"
"$fedllm" eval --model "$out" --data "$work/corpus.jsonl.heldout"
