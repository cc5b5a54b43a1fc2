#!/usr/bin/env python3
"""Makes tests/tokenizer/golden/sentencepiece/*: what the libraries sentencepiece and tokenizers give for many texts.

    pip install sentencepiece==0.2.1 tokenizers==0.23.1
    scripts/golden/sentencepiece_golden.py

NAME.model       models trained on tests/tokenizer/golden/corpus.txt
NAME.json        a tokenizer.json of LLaMA 2's kind, made of llama.model
encodings.json   {"texts": [...], "models": {NAME: {"ids": [[...]], "decoded": [...]}}, "json": {NAME: {the same}}}
"""
import json
import pathlib
import random

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/tokenizer/golden"
OUT = GOLDEN / "sentencepiece"
MARK = "\u2581"

LLAMA = dict(model_type="bpe", byte_fallback=True, split_digits=True, normalization_rule_name="identity",
             remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
MODELS = {
    "llama": dict(LLAMA, vocab_size=700),
    "bpe": dict(model_type="bpe", normalization_rule_name="identity", vocab_size=600, character_coverage=0.98, user_defined_symbols=["<sep>", "the ship", "ness"],
                control_symbols=["<ctl>"], pad_id=3),
    "unigram": dict(model_type="unigram", vocab_size=440, user_defined_symbols=["<sep>", "wat"], split_digits=True),
    "bytes": dict(model_type="unigram", vocab_size=640, character_coverage=0.98, byte_fallback=True, add_dummy_prefix=False,
                  normalization_rule_name="nfkc_cf", remove_extra_whitespaces=False),
    "suffix": dict(model_type="bpe", vocab_size=500, treat_whitespace_as_suffix=True, character_coverage=0.98,
                   normalization_rule_name="identity"),
}


def random_texts(rng, lines):
    pieces = ["a", "B", "ß", "é", "e\u0301", "’", "'s", " ", "  ", "   ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\u200b",
              "1", "42", "1000000", "½", "Ⅷ", "春", "한", "\u1100\u1161", "ﬁ", "Ａ", "🚢", "👩‍🚀", MARK, "<s>", "</s>", "<unk>", "<0x41>",
              "<sep>", "the ship", "ness", "wat", "<ctl>", "The", "ship", "crew", ".", ",", "-", "\x01", "\u0378", "ĳ"]
    texts = ["", " ", "  ", "\n", "a", " a", "a ", "  a  b  ", MARK, MARK + "a", "a" + MARK, "Hello, world!", "<s>", "x<s>y", "a\u0000b"]
    for _ in range(200):
        texts.append("".join(rng.choice(pieces) for _ in range(rng.randint(1, 12))))
    for _ in range(60):
        line = rng.choice(lines)
        start = rng.randrange(max(1, len(line) - 5))
        texts.append(line[start:start + rng.randint(1, 90)])
    return texts + ["a" * 300, " " * 200 + "x", "the ship " * 40]


def llama_json(processor, metaspace):
    """As converters of transformers make it: merges in the order of the scores that their results have."""
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece, i in vocab.items():
        if processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i):
            continue
        local = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece)) if piece[:cut] in vocab and piece[cut:] in vocab]
        merges += [(processor.get_score(i), a, b) for a, b in sorted(local, key=lambda x: (vocab[x[0]], vocab[x[1]]))]
    merges.sort(key=lambda x: -x[0])
    tokenizer = Tokenizer(models.BPE(vocab, [(a, b) for _, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme=metaspace, split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


def main():
    OUT.mkdir(exist_ok=True)
    rng = random.Random(7)
    corpus = GOLDEN / "corpus.txt"
    texts = random_texts(rng, corpus.read_text().split("\n"))
    golden = {"texts": texts, "models": {}, "json": {}}
    for name, options in MODELS.items():
        sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(OUT / name), minloglevel=2, **options)
        (OUT / (name + ".vocab")).unlink()
        processor = sentencepiece.SentencePieceProcessor(model_file=str(OUT / (name + ".model")))
        ids = [processor.encode(text) for text in texts]
        golden["models"][name] = {"ids": ids, "decoded": [processor.decode(i) for i in ids], "vocab_size": processor.get_piece_size(),
                                  "eos": processor.eos_id(), "pad": processor.pad_id()}
    llama = sentencepiece.SentencePieceProcessor(model_file=str(OUT / "llama.model"))
    for name, scheme in {"prepend": None, "first": "first", "always": "always", "never": "never"}.items():
        tokenizer = llama_json(llama, scheme)
        if name == "prepend":
            tokenizer.save(str(OUT / "prepend.json"))
        patch = json.loads(tokenizer.to_str())
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        golden["json"][name] = {"patch": {key: patch[key] for key in ("normalizer", "pre_tokenizer")}, "ids": ids,
                                "decoded": [tokenizer.decode(i, skip_special_tokens=False) for i in ids],
                                "special": tokenizer.encode("The ship").ids}
    (OUT / "encodings.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


main()
