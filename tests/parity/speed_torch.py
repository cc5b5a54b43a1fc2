#!/usr/bin/env python3
"""Speed of PyTorch, compiled, on the training step that a configuration describes.

  speed_torch.py --config SHAPE.yaml [--steps 50] [--attention cudnn|flash] [--no-clip]

SHAPE.yaml is what `megatron config show` prints. One step is one micro-batch of random tokens, forward, backward,
clipping and fused AdamW on fp32 weights; activations and products are bf16. The clock is read once a block of steps,
behind a synchronisation; the median of the blocks counts. Prints one JSON object.
"""
import argparse
import json
import statistics
import time

import torch

import settings as run_settings
from model import LanguageModel, choose_attention


def make_step(s, vocab_size, clip):
    """step(samples [B, S + 1]) -> loss, on a model with random weights."""
    with torch.device("cuda"):
        model = LanguageModel(s, vocab_size, exact_head=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=s["model.init_method_std"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(model)

    def step(samples):
        loss = compiled(samples) / (samples.shape[0] * (samples.shape[1] - 1))
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--steps", type=int, default=50, help="measured steps")
    parser.add_argument("--block", type=int, default=5, help="steps between two readings of the clock")
    parser.add_argument("--attention", choices=("cudnn", "flash"), default="cudnn")
    parser.add_argument("--no-clip", action="store_true", help="leave out the gradient norm and clipping")
    arguments = parser.parse_args()
    s = run_settings.read(arguments.config)
    s["precision.params_dtype"] = "bf16"
    choose_attention(arguments.attention)
    batch, length, vocab_size = s["training.micro_batch_size"], s["model.seq_length"], s["model.vocab_size"]
    # Rows up to a multiple of 128, as ours: an odd number of rows is slow.
    padded = -(-vocab_size // 128) * 128
    torch.manual_seed(1)
    data = torch.randint(vocab_size, (16, batch, length + 1), device="cuda")
    begin = time.perf_counter()
    step = make_step(s, padded, not arguments.no_clip)
    for i in range(5):
        loss = step(data[i])
    torch.cuda.synchronize()
    warm_up = time.perf_counter() - begin
    seconds = []
    for block in range(arguments.steps // arguments.block):
        begin = time.perf_counter()
        for i in range(arguments.block):
            loss = step(data[(block + i) % len(data)])
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begin) / arguments.block)
    median = statistics.median(seconds)
    print(json.dumps({
        "program": f"torch {torch.__version__} compiled, {arguments.attention}",
        "shape": f"{batch} x {length}",
        "layers": s["model.num_layers"],
        "step_seconds": round(median, 6),
        "spread": round(max(seconds) / min(seconds) - 1, 4),
        "tokens_per_second": round(batch * length / median),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "warm_up_seconds": round(warm_up, 1),
        "loss": round(loss.item(), 4),
    }))


if __name__ == "__main__":
    main()
