"""The models of tests/golden/model, with the keys of section `model` of the configuration."""

BASE = {
    "num_layers": 2, "seq_length": 12, "max_position_embeddings": 12,
    "position_embedding_type": "rope", "rotary_base": 10000, "rotary_percent": 1.0, "rotary_interleaved": False,
    "normalization": "RMSNorm", "norm_epsilon": 1e-5, "apply_layernorm_1p": False, "qk_layernorm": False,
    "activation_func": "silu", "gated_linear_unit": True, "add_bias_linear": False, "add_qkv_bias": False,
    "untie_embeddings_and_output_weights": True, "hidden_dropout": 0.0, "attention_dropout": 0.0, "window_size": [],
}

CASES = {
    # Biases everywhere, learned positions, tied output weights; more positions than the sequence uses.
    "gpt2": BASE | {
        "hidden_size": 16, "ffn_hidden_size": 64, "num_attention_heads": 2, "num_query_groups": 2, "kv_channels": 8,
        "vocab_size": 48, "max_position_embeddings": 14, "position_embedding_type": "learned_absolute",
        "normalization": "LayerNorm", "activation_func": "gelu_tanh", "gated_linear_unit": False,
        "add_bias_linear": True, "add_qkv_bias": True, "untie_embeddings_and_output_weights": False,
    },
    # Grouped queries, gated MLP, no biases; a vocabulary and an MLP width that are no round numbers.
    "llama": BASE | {
        "hidden_size": 32, "ffn_hidden_size": 42, "num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 8,
        "vocab_size": 50,
    },
    # Biases on queries, keys and values alone, norms over heads, heads wider than hidden_size / heads, tied.
    "qwen": BASE | {
        "hidden_size": 24, "ffn_hidden_size": 40, "num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 8,
        "vocab_size": 41, "rotary_base": 1000000, "norm_epsilon": 1e-6, "qk_layernorm": True, "add_qkv_bias": True,
        "untie_embeddings_and_output_weights": False,
    },
    # The less common options together: zero-centred LayerNorm, squared ReLU, half of each head rotated in
    # neighbouring pairs, one key head for all queries, sliding window.
    "mixed": BASE | {
        "hidden_size": 24, "ffn_hidden_size": 48, "num_attention_heads": 3, "num_query_groups": 1, "kv_channels": 8,
        "vocab_size": 43, "rotary_percent": 0.5, "rotary_interleaved": True, "normalization": "LayerNorm",
        "apply_layernorm_1p": True, "activation_func": "squared_relu", "gated_linear_unit": False,
        "window_size": [4, 0],
    },
}


def to_yaml(name, case, shapes):
    """The case as a configuration file's section, with the sizes that a reader may want to check."""
    def value(v):
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, float) and 0 < v < 1e-3:
            return f"{v:.1e}"
        return str(v)

    parameters = 0
    for shape in shapes.values():
        size = 1
        for extent in shape:
            size *= extent
        parameters += size
    lines = [f"# The model of {name}.safetensors; written by scripts/golden/model_golden.py.",
             f"# {parameters} parameters in {len(shapes)} tensors", "model:", "  family: gpt"]
    lines += [f"  {key}: {value(v)}" for key, v in case.items() if key != "window_size" or v]
    return "\n".join(lines) + "\n"
