"""Our training step beside PyTorch + peft's, in turns on one machine: a Markdown table of medians and ratios.

    compare_step.py BENCH_BUILD_FOLDER PYTHON [rounds [seconds]]

PYTHON is an interpreter with torch, transformers, peft and bitsandbytes (tests/run.sh --peers makes one in build/peers).
Each side runs in processes of its own, A B A B, so that both meet the same weather.
"""
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OURS = re.compile(r"([\d.]+) ms/step\s+(\d+) tokens/s.*?(\d+) % of FMA.*?(\d+) MiB peak")


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
    print("| base | ours tokens/s | of FMA | peak MiB | PyTorch + peft tokens/s | peak MiB | speed ratio | memory ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, case in (("f32", "f32 base"), ("bf16", "bf16 base"), ("nf4", "NF4 base")):
        pairs = [(ours(build, case, seconds), theirs(python, kind, seconds)) for _ in range(rounds)]
        us = [statistics.median(a[i] for a, _ in pairs) for i in range(3)]
        them = [statistics.median(b[i] for _, b in pairs) for i in range(2)]
        speed = statistics.median(a[0] / b[0] for a, b in pairs)
        memory = statistics.median(a[2] / b[1] for a, b in pairs)
        print(f"| {kind} | {us[0]:.0f} | {us[1]:.0f} % | {us[2]:.0f} | {them[0]:.1f} | {them[1]:.0f} | {speed:.1f} | "
              f"{memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
