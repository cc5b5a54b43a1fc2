#!/usr/bin/env python3
"""Makes the golden files of tests/golden/gguf with the `gguf` package of llama.cpp.

  gguf_golden.py                      writes them
  gguf_golden.py --check              compares them with a fresh computation
  gguf_golden.py --dump FILE OUT      what the package reads in a file of ours, in fp32, as safetensors
  gguf_golden.py --compare FILE NAME  transformers loads FILE, compares with the logits of tests/golden/huggingface/NAME

Needs gguf, numpy, torch (CPU), transformers and safetensors. The tests only read the files.
"""
import argparse
import pathlib
import sys

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
FOLDER = GOLDEN / "gguf"
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
WIDTH, ROWS = 512, 3


def values():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    x[0, :32] = 0
    x[1, 32:64] *= 1e-6
    x[2, 5] = 300.0
    return x


def stored(kind):
    """Bytes of the values in a type; of the two that the package cannot make, random blocks with sane scales."""
    quant = getattr(gguf.GGMLQuantizationType, kind)
    if kind not in ("Q4_K", "Q6_K"):
        return gguf.quants.quantize(values(), quant)
    rng = np.random.default_rng(11 + quant)
    _, size = gguf.GGML_QUANT_SIZES[quant]
    blocks = rng.integers(0, 256, (ROWS * WIDTH // 256, size), dtype=np.uint8)
    scales = rng.uniform(-0.1, 0.1, (blocks.shape[0], 2)).astype(np.float16).view(np.uint8)
    if kind == "Q4_K":
        blocks[:, :4] = scales
    else:
        blocks[:, -2:] = scales[:, :2]
    return blocks.reshape(ROWS, -1)


def write_types():
    writer = gguf.GGUFWriter(FOLDER / "types.gguf", "test")
    writer.add_uint64("test.large", 2 ** 40)
    writer.add_bool("test.truth", True)
    writer.add_float64("test.half", 0.5)
    writer.add_array("test.words", ["a", "bc", ""])
    writer.add_array("test.numbers", [1, -2, 3])
    expected = {"values": values()}
    for kind in TYPES:
        quant = getattr(gguf.GGMLQuantizationType, kind)
        data = stored(kind)
        writer.add_tensor(kind, data, raw_dtype=None if kind in ("F32", "F16") else quant)
        expected[kind] = np.ascontiguousarray(gguf.quants.dequantize(data, quant).reshape(ROWS, WIDTH), np.float32)
    finish(writer)
    save_file(expected, FOLDER / "types.safetensors")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def paired(w, heads):
    """Rows of q and k as llama.cpp's rotation wants them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def write_llama():
    """The golden llama2 of Hugging Face as llama.cpp's converter would write it, in fp32."""
    tensors = load_file(GOLDEN / "huggingface" / "llama2" / "model.safetensors")
    writer = gguf.GGUFWriter(FOLDER / "llama2.gguf", "llama")
    writer.add_block_count(3)
    writer.add_vocab_size(97)
    writer.add_context_length(64)
    writer.add_embedding_length(48)
    writer.add_feed_forward_length(80)
    writer.add_head_count(6)
    writer.add_head_count_kv(6)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    for name, w in tensors.items():
        if name in outer:
            writer.add_tensor(outer[name], w)
            continue
        _, _, layer, *path, kind = name.split(".")
        target = LAYER[".".join(path)]
        writer.add_tensor(f"blk.{layer}.{target}.{kind}", paired(w, 6) if target in ("attn_q", "attn_k") else w)
    finish(writer)


def read(path):
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        tensors[tensor.name] = np.ascontiguousarray(values.reshape(tuple(reversed(tensor.shape.tolist()))), np.float32)
    return tensors


def compare(path, name):
    import torch
    import transformers
    path = pathlib.Path(path).resolve()
    expected = load_file(GOLDEN / "huggingface" / name / "expected.safetensors")
    # What transformers reads of the keys is not enough for a model (no rope factors, no window): the config is the golden.
    config = transformers.AutoConfig.from_pretrained(GOLDEN / "huggingface" / name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config,
                                                              dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(expected["tokens"]).long()).logits.numpy()
    error, largest = np.abs(logits - expected["logits"]).max(), np.abs(expected["logits"]).max()
    print(f"{name}: largest difference of logits {error:.2e}, largest logit {largest:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--dump", nargs=2, metavar=("FILE", "OUT"))
    parser.add_argument("--compare", nargs=2, metavar=("FILE", "NAME"))
    arguments = parser.parse_args()
    if arguments.dump:
        save_file(read(arguments.dump[0]), arguments.dump[1])
    elif arguments.compare:
        compare(*arguments.compare)
    elif arguments.check:
        expected = load_file(FOLDER / "types.safetensors")
        bad = [n for n, x in read(FOLDER / "types.gguf").items() if not np.array_equal(x, expected[n], equal_nan=True)]
        print("differ:", bad or "none")
        sys.exit(bool(bad))
    else:
        FOLDER.mkdir(exist_ok=True)
        write_types()
        write_llama()


if __name__ == "__main__":
    main()
