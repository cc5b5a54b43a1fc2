#!/usr/bin/env python3
"""Makes tests/tokenizer/golden/*: what Hugging Face's `tokenizers` gives for many tokenizers and texts.

    pip install tokenizers==0.23.3
    scripts/golden/tokenizer_golden.py

corpus.txt       text that the base tokenizer was trained on
tokenizer.json   the base tokenizer: byte-level BPE as BpeTrainer makes it
vocab.json, merges.txt   the same in GPT-2's files
encodings.json   {"texts": [...], "variants": [{"name", "patch" or "tokenizer", "ids": [...], "special_ids": {...}}]};
                 a patch is a JSON merge patch (RFC 7396) of the base; special_ids: ids with special tokens by text number
trained.json     [{"text", "vocab_size", "min_frequency", "special_tokens", "merges", "tokens", "special_ids"}]: what
                 BpeTrainer learns from small texts; text null: corpus.txt
"""
import copy
import json
import pathlib
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/tokenizer/golden"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SENTENCES = """The ship's crew didn't know what they'd find; we've all heard that it's a long way, and I'm sure you'll agree.
In 1815 about 73,000 men marched 120 km north-east, although only 4.5% of them had boots that fitted.
She said: "Put the kettle on, would you?" -- and then, without waiting, did it herself (as always).
def encode(self, text: str) -> list[int]:\n    return [self.table[c] for c in text if c != '\\n']
Der Fluß führt im Frühjahr Hochwasser; größere Schäden gab es zuletzt im März, hörten wir gestern.
L'été dernier, nous avons traversé la forêt à pied : c'était très agréable, n'est-ce pas ?
Весной лёд на реке ломается с громким треском, и лодки снова выходят на воду.
Το πλοίο έφυγε από το λιμάνι νωρίς το πρωί, πριν ανατείλει ο ήλιος.
春天来了，河上的冰开始融化，渔民们又把船推进水里。
春になると川の氷がとけて、漁師たちはまた舟を出します。
봄이 오면 강의 얼음이 녹고 어부들은 다시 배를 띄운다.
في الربيع يذوب الجليد ويعود الصيادون إلى النهر.
वसंत में नदी की बर्फ पिघलती है और मछुआरे फिर नाव निकालते हैं।
The total was $1,234,567.89 (≈ €1.1 million) — a 12½ % rise, i.e. x² + y² = z² → done ✓.
🚢🌊 Ahoy! 👩‍🚀👨‍👩‍👧‍👦 🇳🇱🇫🇷 ❤️‍🔥 and 👍🏽 too!!!""".split("\n")


def make_corpus(rng):
    words = [word for sentence in SENTENCES for word in sentence.replace("\\n", "\n").split(" ")]
    lines = []
    for _ in range(500):
        if rng.random() < 0.3:
            lines.append(rng.choice(SENTENCES).replace("\\n", "\n"))
        else:
            lines.append(" ".join(rng.choice(words) for _ in range(rng.randint(1, 14))))
    return "\n".join(lines) + "\n"


def random_texts(rng):
    pieces = ["a", "B", "ß", "é", "e\u0301", "’", "'s", "'S", "'ſ", "'LL", "'re", "'x", " ", "  ", "\n", "\r\n", "\t", "\u00a0",
              "\u2003", "\u3000", "\u0085", "\x0b", "\x1c", "\u180e", "\u200b", "1", "42", "1000000", "½", "٣", "Ⅷ", "春", "한", "\u1100\u1161", "ğ",
              "🙂", "👩‍🚀", "!", "...", "#", "</", ">", "<|endoftext|>", "_", "-", "\u0301", "\U00020000", "\uffff", "the", "ing", "Hello"]
    for _ in range(160):
        yield "".join(rng.choice(pieces) for _ in range(rng.randint(1, 24)))
    for _ in range(40):  # any code points
        yield "".join(chr(rng.choice([rng.randrange(0x80), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
                      for _ in range(rng.randint(1, 24)))


def make_texts(rng, corpus):
    texts = ["", " ", "  ", "\n", "\n\n", " \n ", "a", " a", "  a", "a ", "a  ", "a\n\nb", "a \n b", "\t\tx", "don't DON'T we'll we'LL",
             "'s's 's", "''s", "'", "'l", "it'd've", "3.14159 12345678", "1 22 333 4444", "x" * 100, "ab" * 300, " " * 70 + "x", "\n" * 60,
             "=" * 90, "...!?..", "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|endoftext",
             "foo  [MASK]  bar", "x[MASK]y", " [MASK]", "cat concat cat", "cat", "(cat)", "cate cat", "cat_ cat", "écat cat", "<a><ab><abc>", "<a",
             "<pad>\u00e9<pad>e\u0301", "re\u0301sume\u0301 résumé", "RE\u0301SUME\u0301", "\u0041\u030a \u212b \u2126", "q\u0307\u0323 q\u0323\u0307",
             "\u1100\u1161\u11a8 \uac00\u11a8 \u1112\u1161\u11ab", "\u0958 \u0915\u093c", "\ufb01 ﬁ ½", "\u0344 \u0f73 \u0f75", "a\u05b0\u0327\u0301",
             "hello world", "Hello, World!", "\r\n\r\n", "x\r\ny", "end.\n\n\nNext", "fn main() {\n\tprintln!(\"hi\");\n}\n"]
    lines = corpus.splitlines()
    texts += SENTENCES + ["\n".join(rng.sample(lines, 3)) for _ in range(10)]
    texts += list(random_texts(rng))
    return texts


def split(pattern, behavior="Isolated", invert=False, regex=True):
    return {"type": "Split", "pattern": {"Regex" if regex else "String": pattern}, "behavior": behavior, "invert": invert}


def byte_level(regex=False, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def template(before, after, ids):
    def special(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [special(n) for n in before] + [text] + [special(n) for n in after]
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in ids}}


def added(token_id, content, **flags):
    token = {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {**token, **flags}


def variants(size, merges):
    end = added(0, "<|endoftext|>")
    strips = [end, added(size, "[MASK]", lstrip=True), added(size + 1, "cat", single_word=True, special=False),
              added(size + 2, "<a>", rstrip=True), added(size + 3, "<ab>"), added(size + 4, "<a", special=False),
              added(size + 5, "<pad>\u00e9", normalized=True, special=False), added(size + 6, "  "), added(size + 7, "hello", lstrip=True, rstrip=True)]
    bos = [end, added(size, "<s>"), added(size + 1, "</s>")]
    ids = {"<s>": size, "</s>": size + 1}
    yield "gpt2", {}
    yield "gpt2, prefix space", {"pre_tokenizer": byte_level(True, True)}
    yield "llama3", {"pre_tokenizer": sequence(split(LLAMA3), byte_level()), "model": {"ignore_merges": True}, "added_tokens": bos,
                     "post_processor": {"type": "Sequence", "processors": [byte_level(True, True), template(["<s>"], [], {"<s>": size})]}}
    yield "whole words first", {"model": {"ignore_merges": True, "merges": merges[:40]}}
    yield "few merges", {"model": {"merges": merges[:40]}}
    yield "qwen2", {"normalizer": {"type": "NFC"}, "pre_tokenizer": sequence(split(QWEN2), byte_level())}
    yield "bos and eos", {"added_tokens": bos, "post_processor": template(["<s>"], ["</s>"], ids)}
    yield "cased words", {"pre_tokenizer": sequence(split(CASED), byte_level())}
    yield "llama3, removed and inverted", {"pre_tokenizer": sequence(split(LLAMA3, "Removed", True), byte_level())}
    yield "cjk and digits", {"pre_tokenizer": sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(LLAMA3), byte_level())}
    yield "single digits", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(True))}
    yield "digits", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level(True))}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield f"text, {behavior}", {"pre_tokenizer": sequence(split(" ", behavior, regex=False), byte_level())}
        yield f"regex, {behavior}", {"pre_tokenizer": sequence(split(r"[\da-f]", behavior), byte_level(False, True))}
        yield f"inverted, {behavior}", {"pre_tokenizer": sequence(split(r"\s|[a-z]+", behavior, True), byte_level())}
    yield "lines", {"pre_tokenizer": sequence(split(r"^.|.$"), byte_level())}
    yield "added tokens", {"added_tokens": strips}
    yield "added tokens, NFC", {"added_tokens": strips, "normalizer": {"type": "NFC"}}
    yield "added tokens, prefix space", {"added_tokens": strips, "pre_tokenizer": byte_level(True, True)}
    yield "no pieces", {"pre_tokenizer": byte_level(False, False)}


def unknown_bytes(fuse):
    """A vocabulary without most bytes."""
    vocab = {token: i for i, token in enumerate(["<unk>", "a", "e", "Ġ", "t", "h", "th", "the", "Ġthe"])}
    merges = [["t", "h"], ["th", "e"], ["Ġ", "the"]]
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": fuse, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(0, "<unk>")], "normalizer": None,
            "pre_tokenizer": byte_level(True), "post_processor": None, "decoder": None, "model": model}


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def train(text, vocab_size, min_frequency, specials=("<|endoftext|>",)):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(specials),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def training_cases(rng, corpus):
    yield corpus, 900, 2
    yield corpus, 1500, 0
    yield corpus, 3000, 5
    yield corpus, 700, 2, ["[end]", "the", "a", "<é>", "Ġin"]  # special tokens that merges make too
    for letters, vocab_size in (("ab", 330), ("ab", 400), ("abc", 700), ("aab ", 600), ("aaaab", 420)):
        yield "".join(rng.choice(letters + " ") for _ in range(4000)), vocab_size, rng.choice([0, 2])
    yield " ".join("a" * rng.randint(1, 30) for _ in range(100)), 300, 0
    yield "x", 300, 0


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rng = random.Random(20240229)
    corpus = make_corpus(rng)
    (OUT / "corpus.txt").write_text(corpus, newline="")
    base = train(corpus, 1500, 2)
    (OUT / "tokenizer.json").write_text(base.to_str(pretty=False))
    base_json = json.loads(base.to_str())
    base.model.save(str(OUT))
    texts = make_texts(rng, corpus)
    result = []
    every = [(name, {"patch": patch}, merge_patch(base_json, patch)) for name, patch in variants(len(base_json["model"]["vocab"]), base_json["model"]["merges"])]
    every += [(f"unknown bytes, fused: {fuse}", {"tokenizer": unknown_bytes(fuse)}, unknown_bytes(fuse)) for fuse in (False, True)]
    for name, source, whole in every:
        tokenizer = Tokenizer.from_str(json.dumps(whole))
        plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        special = {str(i): tokenizer.encode(texts[i], add_special_tokens=True).ids for i in (0, 6, 28, 29, 60)}
        result.append({"name": name, **source, "ids": plain, "special_ids": special})
    write(OUT / "encodings.json", {"texts": texts, "variants": result})
    trained = []
    for text, vocab_size, min_frequency, *specials in training_cases(rng, corpus):
        model = json.loads(train(text, vocab_size, min_frequency, *specials).to_str())["model"]
        trained.append({"text": None if text is corpus else text, "vocab_size": vocab_size, "min_frequency": min_frequency,
                        "special_tokens": specials[0] if specials else ["<|endoftext|>"],
                        "merges": [" ".join(merge) for merge in model["merges"]], "tokens": len(model["vocab"]),
                        "special_ids": [model["vocab"][token] for token in (specials[0] if specials else [])]})
    write(OUT / "trained.json", trained)


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
