#!/usr/bin/env python3
"""Turns a checkpoint of Megatron-LM into a Hugging Face folder, which `megatron convert` reads.

  megatron_to_safetensors.py CHECKPOINT FOLDER [--vocab-size N] [--tokenizer DIR]

CHECKPOINT is an iteration folder (iter_0001000, release) or the folder above it, in format torch_dist or torch
(mp_rank_XX[_YYY]/model_optim_rng.pt), of a GPT model as GPT-2, LLaMA, Mistral, Qwen 2 or Qwen 3 are. Sizes and options
come from the arguments that Megatron stored in it. Rows that pad the vocabulary stay unless --vocab-size is given.
--tokenizer copies tokenizer files along. Needs torch and safetensors, and memory for the whole model; Megatron itself is
not needed, and classes of its that are pickled in the checkpoint are not run.
"""
import argparse
import json
import pathlib
import pickle
import re
import shutil
import sys
import types

import torch
from safetensors.torch import save_file

ALLOWED = re.compile(r"(torch|collections|argparse|numpy|builtins|_codecs|copyreg|pathlib|enum)(\.|$)")
UNSAFE = {"eval", "exec", "compile", "open", "getattr", "setattr", "__import__", "input", "breakpoint", "globals"}
BY_ROWS = ("word_embeddings.weight", "output_layer.weight", "linear_qkv.weight", "linear_qkv.bias",
           "linear_fc1.weight", "linear_fc1.bias")
BY_COLUMNS = ("linear_proj.weight", "linear_fc2.weight")
FUSED_NORMS = {"self_attention.linear_qkv.layer_norm_": "input_layernorm.",
               "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.", "decoder.final_norm.": "decoder.final_layernorm."}


class Stub:
    """Stands for classes of other packages."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if ALLOWED.match(module) and not (module == "builtins" and name in UNSAFE):
            return super().find_class(module, name)
        return Stub


def load(path):
    module = types.SimpleNamespace(Unpickler=Unpickler, load=lambda f, **k: Unpickler(f, **k).load(), __name__="pickle")
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)


def iteration_folder(root):
    tracker = root / "latest_checkpointed_iteration.txt"
    if not tracker.exists():
        return root
    word = tracker.read_text().strip()
    return root / (word if word == "release" else f"iter_{int(word):07d}")


# ---- reading: {our name: tensor} and Megatron's arguments ------------------------------------------------------------

def read_torch_dist(folder):
    """All tensors of a torch.distributed.checkpoint; layers of equal shape have the layer as first dimension."""
    from torch.distributed.checkpoint import FileSystemReader, load as dcp_load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    reader = FileSystemReader(folder)
    state = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata) and not key.startswith("optimizer") and "_extra_state" not in key:
            state[key] = torch.empty(entry.size, dtype=entry.properties.dtype)
    dcp_load(state, storage_reader=reader, no_dist=True)
    common = folder / "common.pt"
    if not common.exists():
        sys.exit(f"{folder}: has no common.pt with Megatron's arguments")
    model = {}
    for key, tensor in state.items():
        key = key.removeprefix("model.")
        if key.startswith("decoder.layers.") and not key.split(".")[2].isdigit():
            for i, part in enumerate(tensor):
                model[key.replace("decoder.layers.", f"decoder.layers.{i}.", 1)] = part
        else:
            model[key] = tensor
    return model, load(common)["args"]


def join_tensor_ranks(name, parts, gated):
    if len(parts) == 1:
        return parts[0]
    if "linear_fc1" in name and not "layer_norm" in name and gated:  # each rank has its gate, then its up
        halves = [p.chunk(2) for p in parts]
        return torch.cat([h[0] for h in halves] + [h[1] for h in halves])
    if name.endswith(BY_ROWS):
        return torch.cat(parts)
    return torch.cat(parts, dim=1) if name.endswith(BY_COLUMNS) else parts[0]


def read_ranks(folder):
    """mp_rank_TT or mp_rank_TT_PPP; layers count from 0 in each stage and each virtual stage."""
    ranks = {}
    for path in sorted(folder.glob("mp_rank_*/model_optim_rng.pt")):
        numbers = [int(n) for n in path.parent.name.removeprefix("mp_rank_").split("_")]
        if len(numbers) > 2:
            sys.exit(f"{path}: expert parallel checkpoints are not supported")
        ranks[(numbers[0], numbers[1] if len(numbers) > 1 else 0)] = load(path)
    args = ranks[(0, 0)]["args"]
    tensor_ranks = sorted({t for t, _ in ranks})
    stages = sorted({p for _, p in ranks})
    chunks = sorted(k for k in ranks[(0, 0)] if re.fullmatch(r"model\d*", k))
    model, first_layer = {}, 0
    for chunk in chunks:
        for stage in stages:
            parts = [ranks[(t, stage)][chunk] for t in tensor_ranks]
            layers = set()
            for name, value in parts[0].items():
                if not isinstance(value, torch.Tensor):
                    continue
                whole = join_tensor_ranks(name, [p[name] for p in parts], args.swiglu)
                match = re.match(r"decoder\.layers\.(\d+)\.", name)
                if match:
                    layers.add(int(match[1]))
                    name = name.replace(match[0], f"decoder.layers.{int(match[1]) + first_layer}.", 1)
                model.setdefault(name, whole)
            first_layer += len(layers)
    return model, args


# ---- writing ---------------------------------------------------------------------------------------------------------

class Writer:
    def __init__(self, model, args, vocab_size):
        self.model, self.args, self.out = model, args, {}
        self.heads = args.num_attention_heads
        self.groups = args.num_query_groups if getattr(args, "group_query_attention", False) else self.heads
        self.channels = args.kv_channels or args.hidden_size // self.heads
        self.vocab_size = vocab_size or model["embedding.word_embeddings.weight"].shape[0]
        self.left = set(model)

    def take(self, name, norm=False):
        self.left.discard(name)
        tensor = self.model[name]
        return tensor + 1 if norm and getattr(self.args, "apply_layernorm_1p", False) else tensor

    def qkv(self, name):
        """q, k and v out of [groups, q + 2, channels, ...]."""
        w = self.take(name)
        queries = self.heads // self.groups
        w = w.reshape(self.groups, queries + 2, self.channels, *w.shape[1:])
        return [x.reshape(-1, *w.shape[3:]).contiguous() for x in (w[:, :queries], w[:, -2], w[:, -1])]

    def put(self, name, tensor):
        self.out[name] = tensor.contiguous().clone()

    def words(self, ours, theirs):
        self.put(theirs, self.take(ours)[:self.vocab_size])

    def llama(self):
        self.words("embedding.word_embeddings.weight", "model.embed_tokens.weight")
        for i in range(self.args.num_layers):
            ours, theirs = f"decoder.layers.{i}.", f"model.layers.{i}."
            for a, b in (("input_layernorm", "input_layernorm"), ("pre_mlp_layernorm", "post_attention_layernorm"),
                         ("self_attention.q_layernorm", "self_attn.q_norm"),
                         ("self_attention.k_layernorm", "self_attn.k_norm")):
                if ours + a + ".weight" in self.model:
                    self.put(theirs + b + ".weight", self.take(ours + a + ".weight", norm=True))
            for kind in ("weight", "bias"):
                if ours + f"self_attention.linear_qkv.{kind}" in self.model:
                    for letter, w in zip("qkv", self.qkv(ours + f"self_attention.linear_qkv.{kind}")):
                        self.put(f"{theirs}self_attn.{letter}_proj.{kind}", w)
                for a, b in (("self_attention.linear_proj", "self_attn.o_proj"), ("mlp.linear_fc2", "mlp.down_proj")):
                    if f"{ours}{a}.{kind}" in self.model:
                        self.put(f"{theirs}{b}.{kind}", self.take(f"{ours}{a}.{kind}"))
                if f"{ours}mlp.linear_fc1.{kind}" in self.model:
                    for b, w in zip(("gate_proj", "up_proj"), self.take(f"{ours}mlp.linear_fc1.{kind}").chunk(2)):
                        self.put(f"{theirs}mlp.{b}.{kind}", w)
        self.put("model.norm.weight", self.take("decoder.final_layernorm.weight", norm=True))
        if self.args.untie_embeddings_and_output_weights:
            self.words("output_layer.weight", "lm_head.weight")

    def gpt2(self):
        self.words("embedding.word_embeddings.weight", "transformer.wte.weight")
        self.put("transformer.wpe.weight", self.take("embedding.position_embeddings.weight"))
        for i in range(self.args.num_layers):
            ours, theirs = f"decoder.layers.{i}.", f"transformer.h.{i}."
            for kind in ("weight", "bias"):
                for a, b in (("input_layernorm", "ln_1"), ("pre_mlp_layernorm", "ln_2")):
                    self.put(f"{theirs}{b}.{kind}", self.take(f"{ours}{a}.{kind}", norm=kind == "weight"))
                self.put(f"{theirs}attn.c_attn.{kind}", torch.cat(self.qkv(f"{ours}self_attention.linear_qkv.{kind}")).t())
                for a, b in (("self_attention.linear_proj", "attn.c_proj"), ("mlp.linear_fc1", "mlp.c_fc"),
                             ("mlp.linear_fc2", "mlp.c_proj")):
                    self.put(f"{theirs}{b}.{kind}", self.take(f"{ours}{a}.{kind}").t())
        for kind in ("weight", "bias"):
            self.put(f"transformer.ln_f.{kind}", self.take(f"decoder.final_layernorm.{kind}", norm=kind == "weight"))
        if self.args.untie_embeddings_and_output_weights:
            self.words("output_layer.weight", "lm_head.weight")

    def config(self):
        a = self.args
        dtype = str(self.out[next(iter(self.out))].dtype).removeprefix("torch.")
        tied = not a.untie_embeddings_and_output_weights
        if a.position_embedding_type == "learned_absolute":
            activation = "gelu_new" if getattr(a, "bias_gelu_fusion", True) or getattr(a, "openai_gelu", False) else "gelu"
            return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": self.vocab_size,
                    "n_embd": a.hidden_size, "n_layer": a.num_layers, "n_head": self.heads,
                    "n_inner": a.ffn_hidden_size, "n_positions": a.max_position_embeddings,
                    "activation_function": activation, "layer_norm_epsilon": a.norm_epsilon,
                    "tie_word_embeddings": tied, "torch_dtype": dtype}
        window = getattr(a, "window_size", None)
        qkv_bias = any(n.endswith("linear_qkv.bias") for n in self.model)
        norms = any("q_layernorm" in n for n in self.model)
        family = "qwen3" if norms else "llama" if a.add_bias_linear else "qwen2" if qkv_bias else \
            "mistral" if window else "llama"
        if window and family != "mistral":
            sys.exit(f"a sliding window in family {family} is not supported")
        architecture = family.capitalize() + "ForCausalLM"
        scaling = {"rope_type": "llama3", "factor": float(a.rope_scaling_factor), "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 8192} \
            if getattr(a, "use_rope_scaling", False) else None
        config = {"model_type": family, "architectures": [architecture], "vocab_size": self.vocab_size,
                  "hidden_size": a.hidden_size, "intermediate_size": a.ffn_hidden_size,
                  "num_hidden_layers": a.num_layers, "num_attention_heads": self.heads,
                  "num_key_value_heads": self.groups, "head_dim": self.channels, "hidden_act": "silu",
                  "max_position_embeddings": a.max_position_embeddings, "rms_norm_eps": a.norm_epsilon,
                  "rope_theta": float(a.rotary_base), "rope_scaling": scaling, "tie_word_embeddings": tied,
                  "torch_dtype": dtype}
        if family == "mistral":
            config["sliding_window"] = int(window[0]) + 1
        if family == "llama":
            config |= {"attention_bias": a.add_bias_linear, "mlp_bias": a.add_bias_linear}
        return config


def refuse_others(args):
    """What these families do not have."""
    wrong = []
    learned = args.position_embedding_type == "learned_absolute"
    if not learned and args.position_embedding_type != "rope":
        wrong.append(f"position_embedding_type {args.position_embedding_type}")
    if learned == bool(args.swiglu):
        wrong.append(f"swiglu {args.swiglu} with {args.position_embedding_type}")
    if getattr(args, "normalization", "LayerNorm") != ("LayerNorm" if learned else "RMSNorm"):
        wrong.append(f"normalization {args.normalization} with {args.position_embedding_type}")
    for name, default in (("num_experts", None), ("rotary_interleaved", False), ("rotary_percent", 1.0),
                          ("multi_latent_attention", False), ("rotary_seq_len_interpolation_factor", None)):
        if getattr(args, name, default) != default:
            wrong.append(f"{name} {getattr(args, name)}")
    if wrong:
        sys.exit("not a model of GPT-2, LLaMA, Mistral, Qwen 2 or Qwen 3: " + ", ".join(wrong))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--tokenizer", type=pathlib.Path)
    options = parser.parse_args()
    source = iteration_folder(options.checkpoint)
    if (source / "metadata.json").exists():
        model, args = read_torch_dist(source)
    elif list(source.glob("mp_rank_*/model_optim_rng.pt")):
        model, args = read_ranks(source)
    else:
        sys.exit(f"{source}: neither metadata.json (torch_dist) nor mp_rank_*/model_optim_rng.pt (torch)")
    for fused, plain in FUSED_NORMS.items():
        model = {name.replace(fused, plain): tensor for name, tensor in model.items()}
    refuse_others(args)
    writer = Writer(model, args, options.vocab_size)
    writer.gpt2() if args.position_embedding_type == "learned_absolute" else writer.llama()
    tied = not args.untie_embeddings_and_output_weights
    left = {n for n in writer.left if not n.endswith("_extra_state") and not (tied and n == "output_layer.weight")}
    if left:
        sys.exit("these tensors have no place in the family: " + ", ".join(sorted(left)[:10]))
    options.folder.mkdir(parents=True)
    save_file(writer.out, options.folder / "model.safetensors", metadata={"format": "pt"})
    (options.folder / "config.json").write_text(json.dumps(writer.config(), indent=2) + "\n")
    for path in options.tokenizer.iterdir() if options.tokenizer else []:
        if path.name.startswith(("tokenizer", "vocab", "merges", "special_tokens", "added_tokens")):
            shutil.copy(path, options.folder)
    print(f"{options.folder}: {len(writer.out)} tensors, model type {writer.config()['model_type']}")


if __name__ == "__main__":
    main()
