#!/usr/bin/env python3
"""fedllm eval's multiple choice beside transformers: prompts, log-likelihoods (1e-3) and accuracies.

Questions are the shared assets' (MMLU's CSV, ARC and PIQA as JSON), the model is one of theirs.
"""
import csv
import json
import pathlib
import sys
import tempfile

import support

support.need("torch", "transformers", "tokenizers")
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

MODEL = support.ASSETS / "models/tinystories-656k"
if not MODEL.exists():
    print(f"skipped: no {MODEL}; set FEDLLM_ASSETS")
    sys.exit(support.SKIPPED)


def mmlu_rows(subject, part):
    with open(support.ASSETS / f"data/mmlu/{part}/{subject}_{part}.csv", newline="") as file:
        return [(row[0], row[1:-1], "ABCD".index(row[-1])) for row in csv.reader(file)]


def text_form(question, choices):
    return f"Question: {question.strip()}\nAnswer:", [" " + choice for choice in choices]


def letters_form(question, choices):
    lines = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", choices))
    return f"{question.strip()}\n{lines}Answer:", [f" {letter}" for letter in "ABCD"]


def instruction_form(row):
    names = row["instruction"].rsplit("Answer format:", 1)[1].strip().split("/")
    prompt = f"### Instruction:\n{row['instruction']}\n\n### Response:\n"
    return prompt, ["the correct answer is " + name for name in names], names.index(row["answer"])


def compare(check, name, report, expected):
    samples = report["files"][0]["samples"]
    check.that(len(samples) == len(expected), f"{name}: {len(expected)} questions")
    ours, theirs, correct, correct_norm = [], [], 0, 0
    for sample, (prompt, continuations, answer) in zip(samples, expected, strict=True):
        scores, norms = [], []
        for continuation in continuations:
            ids, first = support.encode_choice(tokenizer, model.config.bos_token_id, prompt, continuation)
            drop = max(0, len(ids) - context - 1)
            scores.append(support.log_likelihood(model, ids[drop:], max(first - drop, 1)))
            norms.append(scores[-1] / len(continuation.removeprefix(" ").encode()))
        ours += sample["log_likelihoods"]
        theirs += scores
        correct += max(range(len(scores)), key=scores.__getitem__) == answer
        correct_norm += max(range(len(norms)), key=norms.__getitem__) == answer
        if sample["answer"] != answer:
            check.that(False, f"{name}: the right answer of {prompt!r}")
    check.near(ours, theirs, 1e-3, f"{name}: log-likelihoods")
    check.near([report["acc"], report["acc_norm"]], [correct / len(samples), correct_norm / len(samples)], 1e-9,
               f"{name}: acc {report['acc']:.4f}, acc_norm {report['acc_norm']:.4f}")


check = support.Check()
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32").eval()
tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
context = model.config.max_position_embeddings
subject = "anatomy"
rows, shots = mmlu_rows(subject, "val"), mmlu_rows(subject, "dev")
path = support.ASSETS / f"data/mmlu/val/{subject}_val.csv"
shots_path = support.ASSETS / f"data/mmlu/dev/{subject}_dev.csv"

for style, form in (("text", text_form), ("letters", letters_form)):
    report = support.fedllm("eval", "--model", MODEL, "--data", path, "--choices", style, "--samples")
    compare(check, f"mmlu {style}", report, [(*form(q, c), a) for q, c, a in rows])
    report = support.fedllm("eval", "--model", MODEL, "--data", path, "--choices", style, "--samples", "--few-shot",
                            shots_path, 2)
    before = ""
    for q, c, a in shots[:2]:
        prompt, continuations = form(q, c)
        before += prompt + continuations[a] + "\n\n"
    expected = [(before + form(q, c)[0], form(q, c)[1], a) for q, c, a in rows]
    compare(check, f"mmlu {style}, 2 shots", report, expected)

with tempfile.TemporaryDirectory() as folder:
    jsonl = pathlib.Path(folder) / "questions.jsonl"
    jsonl.write_text("".join(json.dumps({"question": q, "choices": c, "answer": a}) + "\n" for q, c, a in rows))
    report = support.fedllm("eval", "--model", MODEL, "--data", jsonl, "--samples")
    compare(check, "mmlu as JSONL, unasked", report, [(*text_form(q, c), a) for q, c, a in rows])
    for name in ("ARC-Easy_test", "piqa_test"):
        some = json.loads((support.ASSETS / f"data/multiple-choice/{name}.json").read_text())[:30]
        part = pathlib.Path(folder) / f"{name}.json"
        part.write_text(json.dumps(some))
        report = support.fedllm("eval", "--model", MODEL, "--data", part, "--choices", "text", "--samples")
        compare(check, name, report, [instruction_form(row) for row in some])
check.end()
