#!/usr/bin/env python3
"""Trains with PyTorch what a run of ours trains: same initial weights, same samples, same hyper-parameters.

  train_torch.py --config RUN/resolved.yaml --weights CHECKPOINT --samples SAMPLES --output LOSSES.jsonl [--iters N]

Writes one JSON object per iteration with the names of metrics.jsonl. README.md says how to get the three inputs.
"""
import argparse
import json
import math

import torch

import safetensors_files
import settings as run_settings
from model import LanguageModel, choose_attention


def learning_rate(s, samples):
    """Rate of the iteration that starts with `samples` samples behind it."""
    batch = s["training.global_batch_size"]
    top, floor, start = s["optimizer.lr"], s["optimizer.min_lr"], s["optimizer.lr_warmup_init"]
    warmup = s["optimizer.lr_warmup_iters"] * batch
    decay = (s["optimizer.lr_decay_iters"] or s["training.train_iters"]) * batch
    if warmup > 0 and samples <= warmup:
        return start + (top - start) * samples / warmup
    if s["optimizer.lr_decay_style"] == "constant":
        return top
    if samples > decay:
        return floor
    done = (samples - warmup) / (decay - warmup)
    share = 1 - done if s["optimizer.lr_decay_style"] == "linear" else (math.cos(math.pi * done) + 1) / 2
    return floor + share * (top - floor)


def load(s, folder, device):
    """The model with the weights of a checkpoint; an fp32 master copy is preferred to rounded parameters."""
    tensors = safetensors_files.read_folder(folder)
    words = tensors["embedding.word_embeddings.weight"]
    model = LanguageModel(s, words.shape[0]).to(device)
    names = {name for name in tensors if not name.startswith("optimizer.state.")}
    ours = {name for name, _ in model.named_parameters()}
    if names != ours:
        raise SystemExit(f"{folder}: parameters differ: {sorted(names ^ ours)[:10]}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source = tensors.get(f"optimizer.state.fp32_param.{name}", tensors[name])
            if source.numel() != parameter.numel():
                raise SystemExit(f"{name}: shape {list(source.shape)} in the checkpoint, {list(parameter.shape)} here")
            parameter.copy_(source.reshape(parameter.shape))
    return model


def make_optimizer(s, model, device):
    """AdamW; biases and norms, which are vectors, do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": s["optimizer.weight_decay"]},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    betas = (s["optimizer.adam_beta1"], s["optimizer.adam_beta2"])
    fast = {"fused": True} if device == "cuda" else {}
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=s["optimizer.adam_eps"], **fast)


def step(s, model, optimizer, samples):
    """One iteration on a global batch; loss and gradient norm as tensors."""
    divisor = samples.shape[0] * (samples.shape[1] - 1)
    total = 0.0
    optimizer.zero_grad()
    for part in samples.split(s["training.micro_batch_size"]):
        loss = model(part) / divisor
        loss.backward()
        total = total + loss.detach()
    limit = s["optimizer.clip_grad"] or math.inf
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    return total, norm


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="resolved.yaml of the run")
    parser.add_argument("--weights", required=True, help="folder of the checkpoint with the initial weights")
    parser.add_argument("--samples", required=True, help="file of `megatron data samples`, from sample 0 on")
    parser.add_argument("--output", required=True, help="file for one JSON object per iteration")
    parser.add_argument("--iters", type=int, help="iterations, if not all of the run")
    parser.add_argument("--attention", choices=("cudnn", "flash"), help="instead of PyTorch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    s = run_settings.read(arguments.config)
    run_settings.check(s)
    # Operands of type bf16 are exact in TF32: the head's products are then those of bf16 with fp32 sums.
    torch.backends.cuda.matmul.allow_tf32 = s["precision.params_dtype"] == "bf16"
    if arguments.attention:
        choose_attention(arguments.attention)
    batch, iters = s["training.global_batch_size"], arguments.iters or s["training.train_iters"]
    samples = safetensors_files.read_file(arguments.samples)["tokens"]
    if samples.shape[0] < batch * iters:
        raise SystemExit(f"{arguments.samples}: {samples.shape[0]} samples, {batch * iters} are needed")
    model = load(s, arguments.weights, arguments.device)
    optimizer = make_optimizer(s, model, arguments.device)
    with open(arguments.output, "w") as output:
        for i in range(iters):
            rate = learning_rate(s, i * batch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, norm = step(s, model, optimizer, samples[i * batch: (i + 1) * batch].to(arguments.device))
            line = {"iteration": i + 1, "lm_loss": loss.item(), "grad_norm": norm.item(), "learning_rate": rate}
            output.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
