#!/usr/bin/env python3
"""Tests scripts/megatron_to_safetensors.py: makes checkpoints as Megatron-LM lays them out, in format torch (tensor and
pipeline ranks) and torch_dist, of golden models of tests/golden/huggingface, and compares what the script makes of them.

Needs torch 2.4 or newer and safetensors. Run by hand: megatron_checkpoints.py
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "huggingface"
PADDED = 128
LLAMA = {"input_layernorm": "input_layernorm", "post_attention_layernorm": "pre_mlp_layernorm",
         "self_attn.q_norm": "self_attention.q_layernorm", "self_attn.k_norm": "self_attention.k_layernorm",
         "self_attn.o_proj": "self_attention.linear_proj", "mlp.down_proj": "mlp.linear_fc2"}
GPT2 = {"ln_1": "input_layernorm", "ln_2": "pre_mlp_layernorm", "attn.c_proj": "self_attention.linear_proj",
        "mlp.c_fc": "mlp.linear_fc1", "mlp.c_proj": "mlp.linear_fc2"}


def padded(w):
    return torch.cat([w, torch.zeros(PADDED - w.shape[0], w.shape[1], dtype=w.dtype)])


def turned(w):
    return w.t().contiguous()


def interleave(q, k, v, groups):
    parts = [x.reshape(groups, -1, *x.shape[1:]) for x in (q, k, v)]
    return torch.cat(parts, dim=1).reshape(-1, *q.shape[1:])


def megatron_state(name):
    """Whole tensors under Megatron's names, and its arguments."""
    c = json.loads((GOLDEN / name / "config.json").read_text())
    t = {}
    for path in (GOLDEN / name).glob("model*.safetensors"):
        t |= load_file(path)
    state = {}
    if c["model_type"] == "gpt2":
        state["embedding.word_embeddings.weight"] = padded(t["transformer.wte.weight"])
        state["embedding.position_embeddings.weight"] = t["transformer.wpe.weight"]
        for i in range(c["n_layer"]):
            for kind in ("weight", "bias"):
                for a, b in GPT2.items():
                    state[f"decoder.layers.{i}.{b}.{kind}"] = turned(t[f"transformer.h.{i}.{a}.{kind}"])
                qkv = turned(t[f"transformer.h.{i}.attn.c_attn.{kind}"]).chunk(3)
                state[f"decoder.layers.{i}.self_attention.linear_qkv.{kind}"] = interleave(*qkv, c["n_head"])
        for kind in ("weight", "bias"):
            state[f"decoder.final_layernorm.{kind}"] = t[f"transformer.ln_f.{kind}"]
        args = dict(num_layers=c["n_layer"], hidden_size=c["n_embd"], num_attention_heads=c["n_head"],
                    ffn_hidden_size=4 * c["n_embd"], max_position_embeddings=c["n_positions"], swiglu=False,
                    position_embedding_type="learned_absolute", normalization="LayerNorm", add_bias_linear=True,
                    kv_channels=None, norm_epsilon=1e-5, untie_embeddings_and_output_weights=False)
        return state, argparse.Namespace(**args), t, c
    groups = c["num_key_value_heads"]
    state["embedding.word_embeddings.weight"] = padded(t["model.embed_tokens.weight"])
    for i in range(c["num_hidden_layers"]):
        ours, theirs = f"decoder.layers.{i}.", f"model.layers.{i}."
        for kind in ("weight", "bias"):
            for a, b in LLAMA.items():
                if theirs + f"{a}.{kind}" in t:
                    state[ours + f"{b}.{kind}"] = t[theirs + f"{a}.{kind}"]
            if theirs + f"self_attn.q_proj.{kind}" in t:
                qkv = [t[f"{theirs}self_attn.{x}_proj.{kind}"] for x in "qkv"]
                state[ours + f"self_attention.linear_qkv.{kind}"] = interleave(*qkv, groups)
            if theirs + f"mlp.gate_proj.{kind}" in t:
                state[ours + f"mlp.linear_fc1.{kind}"] = torch.cat(
                    [t[f"{theirs}mlp.{x}_proj.{kind}"] for x in ("gate", "up")])
    state["decoder.final_layernorm.weight"] = t["model.norm.weight"]
    if "lm_head.weight" in t:
        state["output_layer.weight"] = padded(t["lm_head.weight"])
    rope = c["rope_parameters"]
    args = dict(num_layers=c["num_hidden_layers"], hidden_size=c["hidden_size"], kv_channels=c.get("head_dim"),
                num_attention_heads=c["num_attention_heads"], num_query_groups=groups, group_query_attention=True,
                ffn_hidden_size=c["intermediate_size"], max_position_embeddings=c["max_position_embeddings"],
                swiglu=True, position_embedding_type="rope", normalization="RMSNorm", norm_epsilon=c["rms_norm_eps"],
                add_bias_linear=c.get("mlp_bias", False), rotary_base=int(rope["rope_theta"]),
                use_rope_scaling=rope["rope_type"] == "llama3", rope_scaling_factor=rope.get("factor", 8.0),
                untie_embeddings_and_output_weights="lm_head.weight" in t,
                window_size=(c["sliding_window"] - 1, 0) if c.get("sliding_window") else None)
    return state, argparse.Namespace(**args), t, c


def fused(state):
    """Transformer Engine's names of the norms."""
    change = {"input_layernorm.": "self_attention.linear_qkv.layer_norm_",
              "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"}
    result = {}
    for name, w in state.items():
        for a, b in change.items():
            name = name.replace(a, b)
        result[name] = w
    return result


def cut(name, w, ranks, r, gated):
    if "layer_norm" in name or "layernorm" in name:
        return w
    if "linear_fc1" in name and gated:
        return torch.cat([half.chunk(ranks)[r] for half in w.chunk(2)])
    if name.endswith(("word_embeddings.weight", "output_layer.weight")) or "linear_qkv" in name or "linear_fc1" in name:
        return w.chunk(ranks)[r].clone()
    return w.chunk(ranks, dim=1)[r].clone() if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else w


def write_torch(folder, state, args, ranks):
    """Two tensor ranks (where `ranks` says so), and the three layers on three pipeline stages."""
    for t in range(ranks):
        for stage in range(3):
            model = {"decoder.layers.0.self_attention.core_attention._extra_state": None}
            for name, w in fused(state).items():
                if name.startswith("decoder.layers."):
                    if name.split(".")[2] != str(stage):
                        continue
                    name = name.replace(f"layers.{stage}.", "layers.0.", 1)
                elif name.startswith("embedding") != (stage == 0):
                    continue
                elif stage == 1:
                    continue
                model[name] = cut(name, w, ranks, t, args.swiglu)
            path = folder / "iter_0000005" / f"mp_rank_{t:02d}_{stage:03d}"
            path.mkdir(parents=True)
            torch.save({"model": model, "args": args, "iteration": 5}, path / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("5")


def write_torch_dist(folder, state, args):
    stacked = {}
    for name, w in state.items():
        if name.startswith("decoder.layers."):
            key = "decoder.layers." + name.split(".", 3)[3]
            stacked.setdefault(key, []).append(w)
        else:
            stacked[name] = w
    stacked = {k: torch.stack(w) if isinstance(w, list) else w for k, w in stacked.items()}
    stacked["optimizer.state.exp_avg.decoder.final_layernorm.weight"] = torch.zeros(3)
    dcp.save(stacked, checkpoint_id=folder / "release", no_dist=True)
    torch.save({"args": args, "iteration": 5}, folder / "release" / "common.pt")
    (folder / "release" / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (folder / "latest_checkpointed_iteration.txt").write_text("release")


def check(source, target, expected, config):
    subprocess.run([sys.executable, ROOT / "scripts" / "megatron_to_safetensors.py", source, target, "--vocab-size", "97"],
                   check=True)
    got = load_file(target / "model.safetensors")
    assert got.keys() == expected.keys(), sorted(got.keys() ^ expected.keys())[:5]
    for name, w in expected.items():
        assert torch.equal(got[name], w), name
    written = json.loads((target / "config.json").read_text())
    for key in set(written) & set(config) - {"rope_theta", "n_inner"}:
        assert written[key] == config[key], (key, written[key], config[key])


def main():
    for name in ("gpt2", "llama2", "llama3", "llama_bias", "mistral", "qwen25", "qwen3"):
        with tempfile.TemporaryDirectory() as root:
            root = pathlib.Path(root)
            state, args, expected, config = megatron_state(name)
            write_torch(root / "torch", state, args, 2)
            write_torch_dist(root / "dist", state, args)
            check(root / "torch", root / "a", expected, config)
            check(root / "dist", root / "b", expected, config)
    print("all equal")


if __name__ == "__main__":
    main()
