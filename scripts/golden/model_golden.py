#!/usr/bin/env python3
"""Makes the golden files of tests/golden/model: tiny GPT models in fp64, written in plain PyTorch.

  model_golden.py           writes the files          model_golden.py --check   compares them with a fresh computation

Needs PyTorch 1.12 or newer on the CPU (Debian: python3-torch). The tests only read the files.
What a file holds is described in tests/golden/model/README.md.
"""
import json
import math
import pathlib
import random
import struct
import sys

import torch
import torch.nn.functional as F

from model_cases import CASES, to_yaml

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "model"
BATCH, STEPS = 2, 5
LR, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-2, (0.9, 0.95), 1e-8, 0.1, 1.0


# ---- weights -------------------------------------------------------------------------------------------------------

def parameter_shapes(c):
    """Name -> shape, in the order of the model."""
    h, n, g, d, f = (c[k] for k in ("hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
                                    "ffn_hidden_size"))
    shapes = {"embedding.word_embeddings.weight": (c["vocab_size"], h)}
    if c["position_embedding_type"] == "learned_absolute":
        shapes["embedding.position_embeddings.weight"] = (c["max_position_embeddings"], h)

    def norm(name, width):
        shapes[f"{name}.weight"] = (width,)
        if c["normalization"] == "LayerNorm":
            shapes[f"{name}.bias"] = (width,)

    def linear(name, rows, columns, bias):
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    bias = c["add_bias_linear"]
    for i in range(c["num_layers"]):
        p = f"decoder.layers.{i}"
        norm(f"{p}.input_layernorm", h)
        linear(f"{p}.self_attention.linear_qkv", (n + 2 * g) * d, h, bias or c["add_qkv_bias"])
        if c["qk_layernorm"]:
            norm(f"{p}.self_attention.q_layernorm", d)
            norm(f"{p}.self_attention.k_layernorm", d)
        linear(f"{p}.self_attention.linear_proj", h, n * d, bias)
        norm(f"{p}.pre_mlp_layernorm", h)
        linear(f"{p}.mlp.linear_fc1", 2 * f if c["gated_linear_unit"] else f, h, bias)
        linear(f"{p}.mlp.linear_fc2", h, f, bias)
    norm("decoder.final_layernorm", h)
    if c["untie_embeddings_and_output_weights"]:
        shapes["output_layer.weight"] = (c["vocab_size"], h)
    return shapes


def make_weights(c, seed):
    """Python's generator, whose numbers are the same in all versions. Norms vary around their neutral value."""
    generator = random.Random(seed)
    weights = {}
    for name, shape in parameter_shapes(c).items():
        count = math.prod(shape)
        values = torch.tensor([generator.gauss(0.0, 1.0) for _ in range(count)], dtype=torch.float64).reshape(shape)
        if "layernorm" in name and name.endswith("weight"):
            values = 0.1 * values + (0.0 if c["apply_layernorm_1p"] else 1.0)
        elif len(shape) == 1:
            values = 0.1 * values
        else:
            values = values * (0.5 if "embedding" in name else shape[1] ** -0.5)
        weights[name] = values.requires_grad_()
    return weights


# ---- model ---------------------------------------------------------------------------------------------------------

def norm(c, w, name, x):
    gamma = w[f"{name}.weight"] + (1.0 if c["apply_layernorm_1p"] else 0.0)
    if c["normalization"] == "RMSNorm":
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + c["norm_epsilon"]) * gamma
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + c["norm_epsilon"]) * gamma + w[f"{name}.bias"]


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def rotate(c, x):
    """Rotary positions on x [B, heads, S, d]."""
    if c["position_embedding_type"] != "rope":
        return x
    rotated = int(c["kv_channels"] * c["rotary_percent"])
    frequency = c["rotary_base"] ** (-torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
    angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequency[None]
    cos, sin = angle.cos(), angle.sin()
    part, rest = x[..., :rotated], x[..., rotated:]
    if c["rotary_interleaved"]:
        a, b = part[..., 0::2], part[..., 1::2]
        part = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = part.chunk(2, -1)
        part = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((part, rest), -1)


def attention(c, w, name, x):
    batch, length, _ = x.shape
    n, g, d = c["num_attention_heads"], c["num_query_groups"], c["kv_channels"]
    # Rows of linear_qkv: for each group its n/g queries, then its key, then its value.
    qkv = linear(w, f"{name}.linear_qkv", x).reshape(batch, length, g, n // g + 2, d)
    q = qkv[..., : n // g, :].reshape(batch, length, n, d)
    k, v = qkv[..., -2, :], qkv[..., -1, :]
    if c["qk_layernorm"]:
        q, k = norm(c, w, f"{name}.q_layernorm", q), norm(c, w, f"{name}.k_layernorm", k)
    q, k = rotate(c, q.transpose(1, 2)), rotate(c, k.transpose(1, 2))
    k, v = (t.repeat_interleave(n // g, 1) for t in (k, v.transpose(1, 2)))
    row, column = torch.arange(length)[:, None], torch.arange(length)[None]
    visible = column <= row
    if c["window_size"]:
        visible &= column >= row - c["window_size"][0]
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(d)
    probabilities = scores.masked_fill(~visible, -math.inf).softmax(-1)
    return linear(w, f"{name}.linear_proj", (probabilities @ v).transpose(1, 2).reshape(batch, length, n * d))


def mlp(c, w, name, x):
    activation = {
        "gelu_tanh": lambda t: 0.5 * t * (1 + torch.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))),
        "silu": lambda t: t * torch.sigmoid(t),
        "squared_relu": lambda t: torch.relu(t) ** 2,
    }[c["activation_func"]]
    y = linear(w, f"{name}.linear_fc1", x)
    if c["gated_linear_unit"]:
        gate, up = y.chunk(2, -1)
        y = activation(gate) * up
    else:
        y = activation(y)
    return linear(w, f"{name}.linear_fc2", y)


def logits_of(c, w, tokens):
    """tokens [B, S] -> logits [B, S, V]."""
    x = w["embedding.word_embeddings.weight"][tokens]
    if c["position_embedding_type"] == "learned_absolute":
        x = x + w["embedding.position_embeddings.weight"][: tokens.shape[1]]
    for i in range(c["num_layers"]):
        p = f"decoder.layers.{i}"
        x = x + attention(c, w, f"{p}.self_attention", norm(c, w, f"{p}.input_layernorm", x))
        x = x + mlp(c, w, f"{p}.mlp", norm(c, w, f"{p}.pre_mlp_layernorm", x))
    head = "output_layer.weight" if c["untie_embeddings_and_output_weights"] else "embedding.word_embeddings.weight"
    return F.linear(norm(c, w, "decoder.final_layernorm", x), w[head])


def summed_loss(logits, labels):
    """Cross entropy in nats, summed over all tokens."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


# ---- one golden file -----------------------------------------------------------------------------------------------

def train(c, weights, tokens, labels):
    """Five AdamW steps on one batch. Biases and one-dimensional weights are not decayed."""
    decayed = [p for name, p in weights.items() if p.dim() > 1]
    others = [p for name, p in weights.items() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = summed_loss(logits_of(c, weights, tokens), labels) / labels.numel()
        loss.backward()
        total = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in weights.values()))
        scale = min(1.0, CLIP / (total + 1e-6))
        for p in weights.values():
            p.grad.mul_(scale)
        optimizer.step()
        losses.append(loss.item())
        norms.append(total)
    return losses, norms


def make_golden(c, seed):
    """Everything the file of one model holds: name -> tensor."""
    generator = random.Random(seed + 1)
    ids = [[generator.randrange(c["vocab_size"]) for _ in range(c["seq_length"] + 1)] for _ in range(BATCH)]
    ids = torch.tensor(ids, dtype=torch.int64)
    tokens, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    weights = make_weights(c, seed)
    golden = {"tokens": tokens.to(torch.int32), "labels": labels.to(torch.int32)}
    golden.update({f"weights/{name}": w.detach().clone() for name, w in weights.items()})

    logits = logits_of(c, weights, tokens)
    loss = summed_loss(logits, labels)
    (loss / labels.numel()).backward()
    golden["logits"] = logits.detach()
    golden["loss_sum"] = loss.detach().reshape(1)
    golden.update({f"gradients/{name}": w.grad.clone() for name, w in weights.items()})
    check_gradients(c, weights, tokens, labels)

    losses, norms = train(c, weights, tokens, labels)
    golden["train/loss"] = torch.tensor(losses, dtype=torch.float64)
    golden["train/grad_norm"] = torch.tensor(norms, dtype=torch.float64)
    golden.update({f"final/{name}": w.detach().clone() for name, w in weights.items()})
    return golden


def check_gradients(c, weights, tokens, labels):
    """One element of each gradient against central differences."""
    step = 1e-5
    for name, w in weights.items():
        index = int(w.grad.abs().argmax())
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                w.view(-1)[index] += sign * step
                values.append(float(summed_loss(logits_of(c, weights, tokens), labels)) / labels.numel())
                w.view(-1)[index] -= sign * step
        expected = (values[0] - values[1]) / (2 * step)
        actual = float(w.grad.view(-1)[index])
        if abs(expected - actual) > 1e-7 * max(1.0, abs(actual)):
            sys.exit(f"{name}: gradient {actual} against finite difference {expected}")


# ---- files ---------------------------------------------------------------------------------------------------------

DTYPES = {"F64": (torch.float64, "d"), "I32": (torch.int32, "i")}


def write_safetensors(path, tensors):
    header, chunks, offset = {"__metadata__": {"made_by": "scripts/golden/model_golden.py"}}, [], 0
    # Wider elements first keeps every tensor aligned to its element.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        dtype, code = next((k, v[1]) for k, v in DTYPES.items() if v[0] == tensor.dtype)
        data = struct.pack(f"<{tensor.numel()}{code}", *tensor.reshape(-1).tolist())
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def read_safetensors(path):
    raw = path.read_bytes()
    size = struct.unpack_from("<Q", raw)[0]
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        dtype, code = DTYPES[entry["dtype"]]
        count = math.prod(entry["shape"])
        values = struct.unpack_from(f"<{count}{code}", raw, 8 + size + entry["data_offsets"][0])
        tensors[name] = torch.tensor(values, dtype=dtype).reshape(entry["shape"])
    return tensors


def compare(path, fresh):
    stored = read_safetensors(path)
    if stored.keys() != fresh.keys():
        sys.exit(f"{path.name}: names differ: {sorted(stored.keys() ^ fresh.keys())}")
    worst = 0.0
    for name, tensor in fresh.items():
        difference = float((stored[name].double() - tensor.double()).abs().max())
        if not difference <= 1e-11:
            sys.exit(f"{path.name}: {name} differs from what this script computes by {difference:.2e}")
        worst = max(worst, difference)
    print(f"{path.name}: largest difference {worst:.2e}")


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: model_golden.py [--check]")
    check = bool(sys.argv[1:])
    for seed, (name, c) in enumerate(CASES.items(), 1):
        golden = make_golden(c, 1000 * seed)
        path, yaml_path = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.yaml"
        if check:
            compare(path, golden)
            if yaml_path.read_text(encoding="utf-8") != to_yaml(name, c, parameter_shapes(c)):
                sys.exit(f"{yaml_path.name} is not what this script writes")
            continue
        write_safetensors(path, golden)
        yaml_path.write_text(to_yaml(name, c, parameter_shapes(c)), encoding="utf-8")
        norms = ", ".join(f"{x:.2f}" for x in golden["train/grad_norm"].tolist())
        losses = ", ".join(f"{x:.4f}" for x in golden["train/loss"].tolist())
        print(f"{path.name}: {path.stat().st_size} bytes, loss {losses}, gradient norm {norms}")


if __name__ == "__main__":
    main()
