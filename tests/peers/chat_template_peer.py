#!/usr/bin/env python3
"""Our chat templates against transformers: renderings byte for byte, and the loss masks of its assistant tokens.

    python3 tests/peers/chat_template_peer.py BUILD_FOLDER [--templates FOLDER] [--write-golden]

Needs transformers, jinja2 and tokenizers. Templates: those of the shared assets (FEDLLM_ASSETS, default
../shared/assets), those in tests/client/data/golden/chat, which write the formats of further models, and *.jinja of FOLDER.
--write-golden writes tests/client/data/golden/chat.json, by which ctest checks the same renderings without Python:
the conversations, and per template a SHA-256 over what transformers makes of them.
"""
import argparse
import copy
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

GOLDEN = pathlib.Path(__file__).parent.parent / "client/data/golden"
ASSETS = pathlib.Path(os.environ.get("FEDLLM_ASSETS", "../shared/assets"))
NOW = datetime.datetime(2025, 3, 9, 14, 5, 6)
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FixedClock


def says(role, content, **more):
    return {"role": role, "content": content, **more}


def calls(name, arguments, content=None, id="call00001"):
    return {"role": "assistant", "content": content,
            "tool_calls": [{"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}]}


TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "The weather <now> & \"later\", in °C.",
        "parameters": {"type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": " Ort, z. B. Köln "},
            "days": {"type": "integer", "description": "how many"},
            "units": {"type": ["string", "null"], "enum": ["°C", "K"], "description": "unit"},
            "exact": {"type": "array", "items": {"type": "number"}, "description": "of 1.5 or 1e-7"}}},
        "return": {"type": "object", "description": "a report"}}},
    {"type": "function", "function": {
        "name": "noop", "description": "does nothing", "parameters": {"type": "object", "properties": {}}}},
]
SIMPLE_TOOLS = [
    {"type": "function", "function": {
        "name": "sum", "description": "adds", "parameters": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "description": " one "}, "b": {"type": "number", "description": "other"}}},
        "return": {"type": "number", "description": "the sum"}}},
]
USER, BOT = says("user", "Hello, 'world' <b>&</b> \\ \"x\"!"), says("assistant", "  Grüße 🦙\n\nhow are\tyou? ")
MATH = says("assistant", "<think>\n2+2 is\n4\n</think>\n\nIt is 4.")
CONVERSATIONS = {
    "user": [USER],
    "system": [says("system", " Be brief.\n"), USER],
    "turns": [USER, BOT, says("user", "And\r\nnow? "), says("assistant", "Fine."), says("user", "日本語 e\u0301")],
    "system turns": [says("system", "Be kind."), USER, BOT, says("user", "Bye"), says("assistant", "Bye, {{ x }}")],
    "reasoning": [says("user", "2+2?"), MATH, says("user", "sure?"), MATH],
    "reasoning field": [says("user", "2+2?"), says("assistant", "4", reasoning_content="It is\nfour."), USER,
                        says("assistant", "5", reasoning="no")],
    "tool call": [says("user", "Weather?"), calls("weather", {"place": "Köln", "days": 3, "exact": [1.5, 1e-7]}),
                  says("tool", "{\"t\": 21.0}", name="weather", tool_call_id="call00001"),
                  says("assistant", "21 °C"), says("user", "thanks")],
    "tool calls with text": [says("system", "Use tools."), says("user", "Weather?"),
                             calls("weather", {"place": "a\"b"}, content="Let me see."),
                             says("tool", "rain", name="weather", tool_call_id="call00001"),
                             says("tool", "sun", name="weather", tool_call_id="call00001"),
                             says("assistant", "Both.")],
    "call text": [says("user", "Weather?"), calls("weather", "{\"place\": \"X\"}"),
                  says("tool", "cold", name="weather", tool_call_id="call00001")],
    "empty": [says("user", ""), says("assistant", ""), says("user", " ")],
    "assistant first": [BOT, USER],
    "system late": [USER, BOT, says("system", "Change."), USER],
    "parts": [says("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])],
    "two users": [USER, USER],
}


def templates(folder):
    found = {}
    for place in [ASSETS / "tokenizers/chat-templates", GOLDEN / "chat", *([folder] if folder else [])]:
        for path in sorted(place.glob("*.jinja")):
            # As transformers reads it: lines may end in any way.
            found[path.stem] = path.read_bytes().decode("utf-8")
    return found


def ask(driver, requests, *arguments):
    text = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([driver, *arguments], input=text, capture_output=True, text=True, encoding="utf-8", check=True)
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def request(template, messages, tools, prompt, mode="render"):
    now = [NOW.year, NOW.month, NOW.day, NOW.hour, NOW.minute, NOW.second, NOW.isoweekday() % 7,
           NOW.timetuple().tm_yday - 1]
    return {"template": template, "variables": VARIABLES, "messages": messages, "tools": tools, "prompt": prompt,
            "now": now, "mode": mode}


def reference(template, messages, tools, prompt):
    """The text and its spans in bytes, or the error."""
    try:
        chat = chat_template_utils._normalize_chat_messages(copy.deepcopy(messages))
        texts, spans = chat_template_utils.render_jinja_template(
            [chat], tools=tools, chat_template=template, add_generation_prompt=prompt,
            return_assistant_tokens_mask="generation" in template, **VARIABLES)
    except Exception as error:  # whatever a template raises
        return {"error": f"{type(error).__name__}: {error}"}
    size = lambda count: len(texts[0][:count].encode())
    return {"text": texts[0], "spans": [[size(a), size(b)] for a, b in (spans[0] if spans else [])]}


def all_cases():
    for title in CONVERSATIONS:
        for tools in (None, TOOLS, TOOLS[1:], SIMPLE_TOOLS):
            for prompt in (False, True):
                yield title, tools, prompt


def write_golden(found):
    digests = {}
    for name, template in found.items():
        digest = hashlib.sha256()
        for title, tools, prompt in all_cases():
            wanted = reference(template, CONVERSATIONS[title], tools, prompt)
            digest.update((wanted.get("text", "refused") + "\0").encode())
            for span in wanted.get("spans", []):
                digest.update(f"{span[0]} {span[1]}\0".encode())
        digests[name] = digest.hexdigest()
    example = request("", [], None, False)
    content = {"variables": VARIABLES, "now": example["now"], "tools": [None, TOOLS, TOOLS[1:], SIMPLE_TOOLS],
               "conversations": CONVERSATIONS, "digests": digests}
    (GOLDEN / "chat.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def compare_renderings(driver, found):
    wrong = 0
    for name, template in found.items():
        cases = list(all_cases())
        ours = ask(driver, [request(template, CONVERSATIONS[title], tools, prompt) for title, tools, prompt in cases])
        equal = refused = 0
        for (title, tools, prompt), got in zip(cases, ours):
            wanted = reference(template, CONVERSATIONS[title], tools, prompt)
            if "error" in wanted and "error" in got:
                refused += 1
            elif wanted == got:
                equal += 1
            else:
                wrong += 1
                print(f"  {name}, '{title}', tools {len(tools or [])}, prompt {prompt}:\n    ours   {json.dumps(got)}\n"
                      f"    theirs {json.dumps(wanted)}")
        print(f"{name}: {equal} renderings equal, {refused} refused by both, {len(cases) - equal - refused} differ")
    return wrong


def tokenizer(path, template):
    fast = PreTrainedTokenizerFast(tokenizer_file=str(path), **VARIABLES)
    fast.chat_template = template
    return fast


def compare_masks(driver, found):
    """Tokens of the assistant, with templates that say which text is: ids and masks."""
    wrong = 0
    marked = {name: template for name, template in found.items() if "{% generation %}" in template or "{%- generation" in template}
    for family in ("smollm2", "llama2"):
        path = ASSETS / "tokenizers" / family / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content.update(truncation=None, padding=None)
        with tempfile.TemporaryDirectory() as folder:
            plain = pathlib.Path(folder) / "tokenizer.json"
            plain.write_text(json.dumps(content), encoding="utf-8")
            for name, template in marked.items():
                fast = tokenizer(plain, template)
                saved = pathlib.Path(folder) / "with-special.json"
                fast.backend_tokenizer.save(str(saved))
                tokens = 0
                for title, messages in CONVERSATIONS.items():
                    asked = request(template, messages, None, False, "ids")
                    got = ask(driver, [asked], saved)[0]
                    try:
                        out = fast.apply_chat_template(copy.deepcopy(messages), tokenize=True, return_dict=True,
                                                       return_assistant_tokens_mask=True)
                    except Exception as error:
                        if "error" not in got:
                            print(f"  {name}, '{title}': theirs {error}")
                            wrong += 1
                        continue
                    wanted = {"ids": out["input_ids"], "marked": [bool(mark) for mark in out["assistant_masks"]]}
                    tokens += sum(wanted["marked"])
                    if got != wanted:
                        wrong += 1
                        print(f"  {family}, {name}, '{title}':\n    ours   {json.dumps(got)}\n    theirs {json.dumps(wanted)}")
                print(f"{family} with {name}: masks of {len(CONVERSATIONS)} conversations compared, {tokens} tokens learned")
    return wrong


def show_texts(driver, found):
    """Every template gives texts to learn from, or says why not; the spans end where turns do."""
    for name, template in found.items():
        answers = ask(driver, [request(template, messages, None, False, "texts") for messages in CONVERSATIONS.values()])
        counts = [0 if "error" in answer else len(answer) for answer in answers]
        print(f"{name}: texts per conversation {counts}")
    return 0


def time_rendering(driver, found):
    requests = [request(found["Qwen-Qwen2.5-7B-Instruct"], CONVERSATIONS["system turns"], None, False)] * 10_000
    began = time.monotonic()
    ask(driver, requests)
    print(f"10,000 renderings, each with its template parsed: {time.monotonic() - began:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--templates", type=pathlib.Path)
    parser.add_argument("--write-golden", action="store_true")
    arguments = parser.parse_args()
    if not ASSETS.exists():
        print(f"skipped: no shared assets at {ASSETS}; set FEDLLM_ASSETS")
        return 0
    driver = arguments.build / "tests/peers/peer_chat_template"
    found = templates(arguments.templates)
    if arguments.write_golden:
        return write_golden(templates(None))
    wrong = compare_renderings(driver, found) + compare_masks(driver, found) + show_texts(driver, found)
    time_rendering(driver, found)
    print(f"{wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
