"""GPT-2 and LLaMA in plain PyTorch, with the parameter names and layouts of our checkpoints.

Parameters are fp32. The forward rounds them to `dtype`, in which all activations are kept; norms, rotation, activation
function and loss compute in fp32 inside. Shapes: B samples, S tokens, C hidden size, G key-value groups of Q query
heads, D head size, F feed-forward size.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class Linear(nn.Linear):
    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def rope_frequencies(settings):
    """Radians per position of every pair of channels, with the rule of LLaMA 3.1 where it is on."""
    size, base = settings["model.kv_channels"], settings["model.rotary_base"]
    frequencies = [base ** (-2 * i / size) for i in range(size // 2)]
    if not settings["model.use_rope_scaling"]:
        return torch.tensor(frequencies, dtype=torch.float64)
    factor, low, high, original = settings["model.rope_scaling_factor"], 1.0, 4.0, 8192.0
    scaled = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        keep = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        scaled.append(keep * frequency + (1 - keep) * frequency / factor)
    return torch.tensor(scaled, dtype=torch.float64)


def rotate(x, cos, sin):
    """x [B, S, heads, D]; cos, sin [S, 1, D / 2]."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def choose_attention(name):
    """"cudnn" or "flash": the one implementation that scaled_dot_product_attention may take."""
    torch.backends.cuda.enable_cudnn_sdp(name == "cudnn")
    torch.backends.cuda.enable_flash_sdp(name == "flash")
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)


def causal_attention(q, k, v):
    """q [B, G Q, S, D], k and v [B, G, S, D]."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(2, 3)).float() / math.sqrt(q.shape[3])
    return scores.masked_fill(future, -math.inf).softmax(-1).to(q.dtype) @ v


class SelfAttention(nn.Module):
    def __init__(self, s):
        super().__init__()
        hidden, heads = s["model.hidden_size"], s["model.num_attention_heads"]
        self.groups, self.size = s["model.num_query_groups"], s["model.kv_channels"]
        self.per_group = heads // self.groups
        rows = self.groups * (self.per_group + 2) * self.size
        self.linear_qkv = Linear(hidden, rows, bias=s["model.add_qkv_bias"])
        self.linear_proj = Linear(heads * self.size, hidden, bias=s["model.add_bias_linear"])

    def forward(self, x, rotation):
        B, S, _ = x.shape
        # Rows are interleaved by group: its queries, its key, its value.
        qkv = self.linear_qkv(x).view(B, S, self.groups, self.per_group + 2, self.size)
        q, k, v = qkv.split([self.per_group, 1, 1], dim=3)
        q, k, v = (t.reshape(B, S, -1, self.size) for t in (q, k, v))
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        out = causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.linear_proj(out.transpose(1, 2).reshape(B, S, -1))


class Mlp(nn.Module):
    def __init__(self, s):
        super().__init__()
        hidden, inner, bias = s["model.hidden_size"], s["model.ffn_hidden_size"], s["model.add_bias_linear"]
        self.gated = s["model.gated_linear_unit"]
        self.linear_fc1 = Linear(hidden, inner * (2 if self.gated else 1), bias=bias)
        self.linear_fc2 = Linear(inner, hidden, bias=bias)

    def forward(self, x):
        h = self.linear_fc1(x)
        if self.gated:
            gate, up = h.float().chunk(2, dim=-1)
            return self.linear_fc2((F.silu(gate) * up).to(x.dtype))
        return self.linear_fc2(F.gelu(h, approximate="tanh"))


def make_norm(s):
    kind = LayerNorm if s["model.normalization"] == "LayerNorm" else RMSNorm
    return kind(s["model.hidden_size"], eps=s["model.norm_epsilon"])


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.input_layernorm, self.self_attention = make_norm(s), SelfAttention(s)
        self.pre_mlp_layernorm, self.mlp = make_norm(s), Mlp(s)

    def forward(self, x, rotation):
        x = x + self.self_attention(self.input_layernorm(x), rotation)
        return x + self.mlp(self.pre_mlp_layernorm(x))


class LanguageModel(nn.Module):
    """exact_head: logits in fp32 from operands of type `dtype`, as ours; otherwise logits of type `dtype`."""

    def __init__(self, s, vocab_size, exact_head=True):
        super().__init__()
        hidden = s["model.hidden_size"]
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[s["precision.params_dtype"]]
        self.exact_head = exact_head
        self.embedding = nn.ModuleDict({"word_embeddings": nn.Embedding(vocab_size, hidden)})
        rotates = s["model.position_embedding_type"] == "rope"
        if not rotates:
            self.embedding["position_embeddings"] = nn.Embedding(s["model.max_position_embeddings"], hidden)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(Layer(s) for _ in range(s["model.num_layers"]))
        self.decoder.final_layernorm = make_norm(s)
        if s["model.untie_embeddings_and_output_weights"]:
            self.output_layer = nn.Linear(hidden, vocab_size, bias=False)
        angles = torch.outer(torch.arange(s["model.seq_length"], dtype=torch.float64), rope_frequencies(s))
        for name, table in (("cos", angles.cos()), ("sin", angles.sin())):
            self.register_buffer(name, table.float()[:, None, :] if rotates else None, persistent=False)

    def forward(self, samples):
        """samples [B, S + 1]: the sum over all tokens of the negative log likelihood of the next one."""
        tokens, labels = samples[:, :-1], samples[:, 1:].long()
        x = self.embedding["word_embeddings"](tokens).to(self.dtype)
        if "position_embeddings" in self.embedding:
            x = x + self.embedding["position_embeddings"].weight[: tokens.shape[1]].to(self.dtype)
        rotation = None if self.cos is None else (self.cos, self.sin)
        for layer in self.decoder.layers:
            x = layer(x, rotation)
        x = self.decoder.final_layernorm(x)
        head = self.output_layer if hasattr(self, "output_layer") else self.embedding["word_embeddings"]
        weight = head.weight.to(self.dtype)
        logits = F.linear(x.float(), weight.float()) if self.exact_head else F.linear(x, weight).float()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
