"""Our training step beside PyTorch + peft's, in turns on one machine: a Markdown table of medians and ratios.

    compare_step.py BENCH_BUILD_FOLDER PYTHON [rounds [seconds [all]]]

PYTHON is an interpreter with torch, transformers, peft and bitsandbytes (tests/run.sh --peers makes one in build/peers).
Each side runs in processes of its own, A B A B, so that both meet the same weather. PyTorch computes with bf16 and NF4 bases
in bf16; so do we (`base.compute: bf16`), and with `all` also in f32 and in integers, in the same turns.
"""
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OURS = re.compile(r"([\d.]+) ms/step\s+(\d+) tokens/s.*?(\d+) % of FMA.*?(\d+) MiB peak")


# Theirs, and ours beside it: (name, case of bench_step, only with `all`).
ROWS = {
    "f32": [("f32", "r16, f32 base", False)],
    "bf16": [("bf16", "bf16 compute, bf16 base", False), ("bf16, compute f32", "r16, bf16 base", True)],
    "nf4": [("NF4", "bf16 compute, NF4 base", False), ("NF4, compute f32", "r16, NF4 base", True),
            ("int8, compute int8", "int8 compute", True)],
}


def ours(build: str, case: str, seconds: str) -> tuple[float, float, float]:
    text = subprocess.run([f"{build}/tests/bench/bench_step", seconds, "0", case], check=True, capture_output=True,
                          text=True).stdout
    found = OURS.search(text)
    if not found:
        sys.exit(f"bench_step printed no figures for '{case}': {text}")
    return float(found[2]), float(found[3]), float(found[4])


def theirs(python: str, kind: str, seconds: str) -> tuple[float, float]:
    text = subprocess.run([python, str(HERE / "torch_step.py"), kind, seconds], check=True, capture_output=True,
                          text=True).stdout
    figures = json.loads(text.splitlines()[-1])
    return figures["tokens_per_second"], figures["peak_bytes"] / 2**20


def main() -> None:
    build, python = sys.argv[1], sys.argv[2]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    seconds = sys.argv[4] if len(sys.argv) > 4 else "15"
    everything = sys.argv[5:] == ["all"]
    print("| base | ours tokens/s | of FMA | peak MiB | PyTorch + peft tokens/s | peak MiB | speed ratio | memory ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, rows in ROWS.items():
        rows = [(name, case) for name, case, extra in rows if everything or not extra]
        turns = [([ours(build, case, seconds) for _, case in rows], theirs(python, kind, seconds)) for _ in range(rounds)]
        them = [statistics.median(b[i] for _, b in turns) for i in range(2)]
        for row, (name, _) in enumerate(rows):
            us = [statistics.median(a[row][i] for a, _ in turns) for i in range(3)]
            speed = statistics.median(a[row][0] / b[0] for a, b in turns)
            memory = statistics.median(a[row][2] / b[1] for a, b in turns)
            print(f"| {name} | {us[0]:.0f} | {us[1]:.0f} % | {us[2]:.0f} | {them[0]:.1f} | {them[1]:.0f} | {speed:.2f} | "
                  f"{memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
