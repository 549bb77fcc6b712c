#!/usr/bin/env python3
"""Expected ids for difficult strings, from the `tokenizers` package (0.23), for golden_test.cpp.

    python3 tests/client/data/golden/generate_tokenizer_golden.py

Trains small tokenizers of each supported kind on text.txt and writes tokenizer_<kind>.json beside itself:
{"tokenizer": {...}, "cases": [[text, ids, ids with special tokens, some ids, their decoding], ...]}.
The kind "trained" is the tokenizer that our own trainer makes of text.txt (trained.tokenizer.json, written by
FEDLLM_UPDATE_GOLDEN=1 and test_client_data).
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
TEXT = (HERE / "text.txt").read_text(encoding="utf-8")
VOCABULARY = 420
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"

FRAGMENTS = [
    "", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\r", " \n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028", "\x0b",
    "\x1c", "\u180e", "\u200b", "\ufeff", "\u1680", "▁", "▁▁", "'s", "'S", "'ll", "'LL", "'Re", "'\u017f", "'d", "'m", "'x", "''",
    "The", " the", "Hello", "world", "nurse", " doctor", "TEMPERATURE", "1", "12", "123", "1234567", "٣٤", "½", "Ⅷ", "²",
    "१२", "𝟘", "é", "e\u0301", "ñ", "n\u0303", "Å", "ự", "q\u0307\u0323", "\u0301", "ﬁ", "ß", "İ", "ſ", "中文", "日本語", "한국어",
    "각", "각", "ㄱ", "𓀀", "𞤀", "🦙", "👩\u200d👩\u200d👧", "🇩🇪", "❤\ufe0f", "\x00", "\x01", "\x7f", "\u0378", "\U000e0001",
    "\U0010ffff", "!", "...", "?!", "'", '"', "_", "--", "=====", "$5", "a_b", "don't", "c'est", "x=1;", "</s>", "<s>", "<unk>",
    "<0x41>", "<0xe2>", "<|tool|>", " <|tool|> ", "<|too", "[pad]", "[pad][pad]", "עברית", "العربية", "हिन्दी", "ไทย", "ក្មេង",
]


def strings(count, generator):
    made = list(FRAGMENTS)
    while len(made) < count:
        text = ""
        for _ in range(generator.randrange(2, 9)):
            draw = generator.random()
            if draw < 0.75:
                text += generator.choice(FRAGMENTS)
            elif draw < 0.9:
                begin = generator.randrange(len(TEXT) - 20)
                text += TEXT[begin:begin + generator.randrange(1, 20)]
            else:
                code_point = generator.choice([generator.randrange(0x3000), generator.randrange(0x20000)])
                text += chr(code_point) if not 0xD800 <= code_point <= 0xDFFF else "?"
        made.append(text)
    return made


def trained(tokenizer, alphabet, special):
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet,
                                  show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def byte_level(pre_tokenizer, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, pre_tokenizers.ByteLevel.alphabet(), ["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False), AddedToken("[pad]", lstrip=True, rstrip=True,
                                                                              normalized=False)])
    return tokenizer


def byte_fallback(normalizer, pre_tokenizer, decoder, all_bytes=True):
    fallback = ["<0x%02X>" % byte for byte in range(256)] if all_bytes else []
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=all_bytes))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY + len(fallback), show_progress=False,
                                  special_tokens=["<unk>", "<s>", "</s>"] + fallback, limit_alphabet=60)
    # A whole paragraph would be one word: lines keep the merges short, and some cross spaces.
    tokenizer.train_from_iterator([line for part in TEXT.split("\n") for line in part.split(". ")], trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # bytes are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1),
                                                                                                   ("</s>", 2)])
    return tokenizer


def kinds():
    split = pre_tokenizers.Split
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    yield "gpt2", byte_level(gpt2)
    yield "gpt2_prefix", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    yield "digits", byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]))
    yield "llama3", byte_level(pre_tokenizers.Sequence([split(Regex(HEAD + r"\p{N}{1,3}" + TAIL), "isolated"), plain]),
                               ignore_merges=True)
    yield "qwen2", byte_level(pre_tokenizers.Sequence([split(Regex(HEAD + r"\p{N}" + TAIL), "isolated"), plain]),
                              normalizer=normalizers.NFC())
    sentence_piece = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                               decoders.Strip(" ", 1, 0)])
    yield "llama2", byte_fallback(sentence_piece, None, strip)
    yield "metaspace", byte_fallback(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=True),
                                     decoders.Metaspace(prepend_scheme="first"))
    yield "unknown", byte_fallback(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False), strip,
                                   all_bytes=False)
    yield "trained", Tokenizer.from_file(str(HERE / "trained.tokenizer.json"))


def main():
    for name, tokenizer in kinds():
        generator = random.Random(name)
        cases = []
        for text in strings(240, generator):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            special = tokenizer.encode(text).ids
            some = special if generator.random() < 0.5 else [generator.randrange(tokenizer.get_vocab_size() + 3)
                                                             for _ in range(generator.randrange(8))]
            cases.append([text, ids, special, some, tokenizer.decode(some)])
        content = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases}
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        model = json.dumps(content["tokenizer"], ensure_ascii=False, separators=(",", ":"))
        (HERE / f"tokenizer_{name}.json").write_text('{"tokenizer":%s,\n"cases":[\n%s\n]}\n' % (model, lines),
                                                     encoding="utf-8")


if __name__ == "__main__":
    main()
