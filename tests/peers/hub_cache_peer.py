#!/usr/bin/env python3
"""`fedllm pull` beside huggingface_hub, both from one small server that speaks the hub's paths: the same cache,
each reads what the other fetched, and transformers loads the model by its id without a network.
"""
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import support

support.need("huggingface_hub", "transformers", "torch", "tokenizers")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "tiny/llama"


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """Files of one model; safetensors are large files, redirected to a path of their own."""
    files = {}
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path in (f"/api/models/{ID}/revision/main", f"/api/models/{ID}", f"/api/models/{ID}/revision/{COMMIT}"):
            return self.reply(200, {"Content-Type": "application/json"}, json.dumps(self.listing()).encode())
        if path.startswith(f"/api/models/{ID}/tree/"):
            return self.reply(200, {"Content-Type": "application/json"}, json.dumps(self.tree()).encode())
        if path.startswith("/large/"):
            return self.content(self.files[path.removeprefix("/large/")], {})
        for revision in ("main", COMMIT):
            name = path.removeprefix(f"/{ID}/resolve/{revision}/")
            if name in self.files:
                return self.resolve(name)
        self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"")

    def resolve(self, name):
        content = self.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(content)}"'}
        if not name.endswith(".safetensors"):
            return self.content(content, headers)
        headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content)),
                    "Location": f"http://localhost:{self.server.server_port}/large/{name}"}
        self.reply(302, headers, b"")

    def content(self, content, headers):
        wanted = self.headers.get("Range")
        if wanted is None:
            return self.reply(200, headers, content)
        start = int(wanted.removeprefix("bytes=").split("-")[0])
        headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.reply(206, headers, content[start:])

    def listing(self):
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": ID, "modelId": ID, "sha": COMMIT, "private": False, "gated": False, "disabled": False,
                "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
                "lastModified": "2024-01-01T00:00:00.000Z"}

    def tree(self):
        return [{"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)} |
                ({"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
                 if name.endswith(".safetensors") else {}) for name, content in self.files.items()]


def environment(home, url):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "HUGGINGFACE_HUB_CACHE"}
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "TOKENIZERS_PARALLELISM": "false"}


def python(code, variables):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    if done.returncode != 0:
        sys.exit(f"{code}\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def layout(home):
    """Blobs by name, links by target, refs by content."""
    model = home / "hub" / ("models--" + ID.replace("/", "--"))
    found = {}
    for path in sorted(model.rglob("*")):
        name = str(path.relative_to(model))
        if path.is_symlink():
            found[name] = "-> " + os.readlink(path)
        elif path.is_file() and name.split("/")[0] in ("blobs", "refs"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


check = support.Check()
with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(temporary)
    support.tiny_llama(root / "model")
    Hub.files = {path.name: path.read_bytes() for path in (root / "model").iterdir()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    ours, theirs = root / "ours", root / "theirs"
    pulled = support.fedllm("pull", ID, "--quiet", environment=environment(ours, url))
    download = f"import huggingface_hub as h; print(h.snapshot_download('{ID}'))"
    python(download, environment(theirs, url))
    check.that(layout(ours) == layout(theirs), f"layout: {len(layout(ours))} entries as huggingface_hub makes them")
    server.shutdown()
    server.server_close()

    offline = environment(ours, url) | {"HF_HUB_OFFLINE": "1"}
    read = python(f"import huggingface_hub as h; print(h.snapshot_download('{ID}', local_files_only=True))", offline)
    check.that(read == pulled["snapshot"], f"huggingface_hub finds our snapshot: {pathlib.Path(read).name}")
    load = f"import transformers as t; print(t.AutoModelForCausalLM.from_pretrained('{ID}').num_parameters())"
    check.that(int(python(load, offline)) > 0, "transformers loads our snapshot by its id, without a network")
    for name, home in (("our", ours), ("huggingface_hub's", theirs)):
        made = support.fedllm("generate", "--model", ID, "--prompt", "x", "--tokens", 3,
                              environment=environment(home, url))
        check.that(made["tokens"] <= 3, f"fedllm reads {name} snapshot by its id")
check.end()
