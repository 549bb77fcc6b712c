#!/usr/bin/env python3
"""Federations of real processes that differ only in how updates and downloads are encoded.

    compression_study.py BUILD_FOLDER OUT_FOLDER [--rounds 30] [--clients 8] [--only NAME,...]

Eight speakers of tinyshakespeare (FEDLLM_ASSETS) are eight clients: nobody's text is like another's. Each setting runs the
same job, seed and data; the server's own report says held-out loss and bytes, and the kernel's socket counters (the server
logs them for each connection) say what was on the wire. Writes study.json, study.svg and prints the table.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = {
    "none": {"update.codec": "none", "download.codec": "none"},
    "default": {},
    "without feedback": {"update.error_feedback": "false"},
    "int4": {"update.codec": "int4", "download.codec": "int4"},
    "topk 5 %": {"update.codec": "topk"},
    "in 3 segments": {"update.segments": 3},
    "with A frozen": {"lora.freeze_a": "true"},
}

JOB = """
name: {name}
base_model: base
seed: 11
lora.rank: 16
lora.alpha: 32
rounds: {rounds}
clients_per_round: {clients}
clients_minimum: {clients}
samples_max: 100000
update.clip_norm: 100
train.local_steps: 8
train.batch_rows: 8
train.sequence_length: 128
train.optimizer.learning_rate: 0.003
train.optimizer.schedule: cosine
train.optimizer.warmup_steps: 8
"""


def nested(flat):
    """{'a.b': 1} as YAML lines that may follow JOB: the reader takes dotted keys as sections."""
    tree = {}
    for key, value in flat.items():
        node = tree
        *path, last = key.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def job_text(name, rounds, clients, settings):
    lines, flat = [], {}
    for line in JOB.format(name=name, rounds=rounds, clients=clients).strip().splitlines():
        key, value = line.split(": ", 1)
        if "." in key:
            flat[key] = value
        else:
            lines.append(line)
    flat.update(settings)
    lines += [f"{key}: {json.dumps(value)}".replace('"', "") for key, value in nested(flat).items()]
    return "\n".join(lines) + "\n"


def speakers(assets, clients):
    by_speaker = json.loads((assets / "data/tinyshakespeare_by_speaker.json").read_text())
    biggest = sorted(by_speaker.items(), key=lambda item: -sum(len(text) for text in item[1]))[:clients]
    return {re.sub("[^a-z]", "-", name.lower()).strip("-"): texts for name, texts in biggest}


def run(setting, arguments, assets):
    build, folder = Path(arguments.build).resolve(), Path(arguments.out).resolve() / re.sub("[^a-z0-9]+", "-", setting)
    fedllm = build / "tools/fedllm"
    hub = folder / "hub"
    hub.mkdir(parents=True)
    port = 20000 + os.getpid() % 5000 + 2 * list(SETTINGS).index(setting)
    call = lambda *words: subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True).stdout
    call(fedllm, "init", "--dir", hub, "--host", "127.0.0.1", "--port", port, "--admin-port", port + 5000)
    processes = []

    def start(*words, log):
        processes.append(subprocess.Popen([str(w) for w in words], stdout=open(log, "w"), stderr=subprocess.STDOUT))

    try:
        start(build / "server/fedllm-server", "--config", hub / "server.yaml", log=folder / "server.log")
        time.sleep(1)
        base = assets / "models" / arguments.model
        for name, texts in speakers(assets, arguments.clients).items():
            site = folder / name
            call(fedllm, "invite", name, "--dir", hub, "--out", site)
            (site / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            (site / "client.yaml").write_text(
                f"server: {{host: 127.0.0.1, port: {port}}}\nmodels: {{base: {base}}}\n"
                f"data: {{path: data.jsonl, eval_fraction: 0.2}}\nthreads: 1\n")
            start(build / "client/fedllm-client", "--config", site / "client.yaml", log=folder / f"{name}.log")
        job = folder / "job.yaml"
        job.write_text(job_text(setting, arguments.rounds, arguments.clients, SETTINGS[setting]))
        call(fedllm, "job", "submit", job, "--model", base, "--dir", hub)
        subprocess.run([str(fedllm), "job", "show", "j1", "--follow", "--dir", str(hub)], check=True,
                       stdout=open(folder / "follow.log", "w"), stderr=subprocess.DEVNULL, timeout=3600)
        report = json.loads(call(fedllm, "job", "show", "j1", "--dir", hub, "--json"))
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)
    return summarise(report, (folder / "server.log").read_text())


def summarise(report, log):
    rounds = report["rounds_done"]
    parts = [part for one in rounds for part in one["clients"]]
    values = next(p["bytes_up"] * p["compression_ratio"] / 2 for p in parts if p["compression_ratio"])
    updates = [p for p in parts if p["compression_ratio"]]
    wire = [sum(int(n) for n in re.findall(rf"client disconnected .*wire_{way}=(\d+)", log)) for way in ("up", "down")]
    return {
        "curve": [one["eval_loss"] for one in rounds],
        "final": report["final_eval_loss"],
        "values": values,
        "bits_up": 8 * sum(p["bytes_up"] for p in updates) / (values * len(updates)),
        # Of all that was sent, the first version too, over what every round's download takes.
        "bits_down": 8 * sum(p["bytes_down"] for p in parts) / (values * len(updates)),
        "error": sum(p["quantisation_error"] for p in updates) / len(updates),
        "counted_up": sum(p["bytes_up"] for p in updates),
        "counted_down": sum(p["bytes_down"] for p in parts),
        "wire_up": wire[0],
        "wire_down": wire[1],
    }


COLOURS = ["#8a8a8a", "#1b5e8c", "#c02f2f", "#3f8f4f", "#b5651d", "#7b4fa3", "#2a9d9d"]


def plot(results, path):
    """Held-out loss by round; every curve named where it ends."""
    width, height, left, right, top, bottom = 860, 460, 60, 200, 40, 50
    curves = {name: [v for v in r["curve"] if v is not None] for name, r in results.items()}
    low = min(min(c) for c in curves.values())
    high = max(max(c) for c in curves.values())
    longest = max(len(c) for c in curves.values()) - 1
    x = lambda i: left + (width - left - right) * i / longest
    y = lambda v: top + (height - top - bottom) * (high - v) / (high - low)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
           f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
           f'<text x="{left}" y="22" font-size="15">Held-out loss by round, eight speakers, one job, encodings</text>']
    for k in range(6):
        v = low + (high - low) * k / 5
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.2f}</text>')
    for i in range(0, longest + 1, 5):
        out.append(f'<text x="{x(i):.1f}" y="{height - bottom + 18}" text-anchor="middle">{i}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">rounds done</text>')
    label_y, below = {}, height - bottom + 15.0
    for value, name in sorted((c[-1], name) for name, c in curves.items()):  # from the lowest up
        below = label_y[name] = min(y(value), below - 15)
    for colour, (name, curve) in zip(COLOURS, curves.items()):
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(curve))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
                   f'<text x="{width - right + 8}" y="{label_y[name] + 4:.1f}" fill="{colour}">{name} '
                   f'({results[name]["bits_up"]:.2f} bit)</text>')
    Path(path).write_text("\n".join(out) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build")
    parser.add_argument("out")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", default="stories260K")
    parser.add_argument("--only", default=",".join(SETTINGS))
    arguments = parser.parse_args()
    assets = Path(os.environ.get("FEDLLM_ASSETS", "../shared/assets")).resolve()
    if not assets.is_dir():
        print(f"skipped: no assets at {assets} (FEDLLM_ASSETS)")
        sys.exit(77)
    results = {}
    for setting in arguments.only.split(","):
        started = time.time()
        results[setting] = run(setting, arguments, assets)
        print(f"{setting}: {time.time() - started:.0f} s", file=sys.stderr)
        Path(arguments.out, "study.json").write_text(json.dumps(results, indent=1))
    plot(results, Path(arguments.out, "study.svg"))
    plain = results.get("none", next(iter(results.values())))["final"]
    print(f"{'setting':22} {'held-out':>9} {'of none':>8} {'bit up':>7} {'bit down':>8} {'error':>6} "
          f"{'counted up':>11} {'on wire':>11} {'counted down':>13} {'on wire':>11}")
    for name, r in results.items():
        print(f"{name:22} {r['final']:9.4f} {100 * (r['final'] / plain - 1):+7.2f}% {r['bits_up']:7.3f} {r['bits_down']:8.3f} "
              f"{r['error']:6.3f} {r['counted_up']:11} {r['wire_up']:11} {r['counted_down']:13} {r['wire_down']:11}")


if __name__ == "__main__":
    main()
