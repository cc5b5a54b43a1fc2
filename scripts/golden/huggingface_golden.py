#!/usr/bin/env python3
"""Makes the golden files of tests/golden/huggingface: tiny models with random weights, written and run by transformers.

  huggingface_golden.py                    writes them
  huggingface_golden.py --check            compares the logits with a fresh computation from the folders
  huggingface_golden.py --compare FOLDER NAME
                                           loads FOLDER (an export of ours) and compares with the logits of NAME

Needs torch (CPU) and transformers 4.51 or newer. The tests only read the files; README.md there says what they hold.
"""
import argparse
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "huggingface"
LLAMA = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             head_dim=8, vocab_size=97, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)

# Name: model class, settings, element type, largest shard.
CASES = {
    "gpt2": ("GPT2", dict(n_embd=48, n_head=6, n_layer=3, n_positions=40, vocab_size=97, bos_token_id=0,
                          eos_token_id=0), "float32", "1GB"),
    "llama2": ("Llama", LLAMA | dict(num_key_value_heads=6, rms_norm_eps=1e-5), "float32", "1GB"),
    "llama3": ("Llama", LLAMA | dict(max_position_embeddings=131072, rope_parameters=LLAMA3, tie_word_embeddings=True, rms_norm_eps=1e-5), "float32",
               "60KB"),
    "llama_bias": ("Llama", LLAMA | dict(attention_bias=True, mlp_bias=True, head_dim=16, rope_parameters=dict(
        rope_type="linear", rope_theta=10000.0, factor=2.0)), "bfloat16", "1GB"),
    "mistral": ("Mistral", LLAMA | dict(sliding_window=7, rms_norm_eps=1e-5), "float32", "1GB"),
    "qwen2": ("Qwen2", {k: v for k, v in LLAMA.items() if k != "head_dim"} | dict(
        use_sliding_window=True, sliding_window=5, max_window_layers=1), "float32", "1GB"),
    "qwen25": ("Qwen2", {k: v for k, v in LLAMA.items() if k != "head_dim"} | dict(
        tie_word_embeddings=True, rope_parameters=dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0,
                                                       original_max_position_embeddings=16)), "bfloat16", "1GB"),
    "qwen3": ("Qwen3", LLAMA | dict(head_dim=12), "float32", "1GB"),
}


def make(name):
    kind, settings, dtype, _ = CASES[name]
    torch.manual_seed(1 + list(CASES).index(name))
    config = getattr(transformers, kind + "Config")(**settings)
    model = getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.dim() > 1:
                value.normal_(0, 0.3 if "embed" in key or "wte" in key or "wpe" in key else 1.5 / value.shape[-1] ** 0.5)
            else:
                value.copy_((0.0 if key.endswith("bias") else 1.0) + 0.2 * torch.randn(value.shape))
    return model.to(getattr(torch, dtype))


def logits_of(folder, tokens):
    """In fp32, whatever the folder holds."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(tokens.long()).logits


def write(name):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    make(name).save_pretrained(folder, max_shard_size=CASES[name][3])
    torch.manual_seed(99)
    tokens = torch.randint(0, 97, (2, 24), dtype=torch.int32)
    save_file({"tokens": tokens, "logits": logits_of(folder, tokens).contiguous()}, folder / "expected.safetensors")


def difference(folder, name):
    expected = load_file(FOLDER / name / "expected.safetensors")
    return (logits_of(folder, expected["tokens"]) - expected["logits"]).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--compare", nargs=2, metavar=("FOLDER", "NAME"))
    arguments = parser.parse_args()
    pairs = [arguments.compare] if arguments.compare else [(FOLDER / name, name) for name in CASES]
    if arguments.check or arguments.compare:
        worst = 0.0
        for folder, name in pairs:
            worst = max(worst, found := difference(folder, name))
            print(f"{name}: largest difference of logits {found:.2e}")
        sys.exit(worst > 1e-4)
    for name in CASES:
        write(name)
        print(name, sum(f.stat().st_size for f in (FOLDER / name).iterdir()), "bytes")


if __name__ == "__main__":
    main()
