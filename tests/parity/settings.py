"""The settings of a run, from its resolved.yaml or from `megatron config show`."""
import json
import pathlib
import sys


def parse_value(text):
    """A value as the program writes it: null, true, 12, 1.0e-05, "text", [a, b] or text."""
    if text.startswith("[") and text.endswith("]"):
        return [parse_value(item.strip()) for item in text[1:-1].split(",") if item.strip()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def read(path):
    """{"section.key": value} of a resolved configuration: two levels, one key a line."""
    settings, section = {}, ""
    for line in pathlib.Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if not line.startswith(" "):
            section = key
        elif line.startswith("  ") and not line.startswith("   "):
            settings[f"{section}.{key.strip()}"] = parse_value(value.strip())
    return settings


# What the PyTorch side implements of settings that it does not read; another value would be ignored.
FIXED = {
    "model.family": "gpt",
    "model.rotary_percent": 1.0,
    "model.rotary_interleaved": False,
    "model.rotary_seq_len_interpolation_factor": None,
    "model.no_rope_freq": None,
    "model.apply_layernorm_1p": False,
    "model.qk_layernorm": False,
    "model.hidden_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "model.softmax_scale": None,
    "model.window_size": None,
    "model.embedding_init_method_std": None,
    "model.layers": None,
    "data.eod_mask_loss": False,
    "data.reset_position_ids": False,
    "data.reset_attention_mask": False,
    "training.train_samples": None,
    "training.iterations_to_skip": None,
    "training.calculate_per_token_loss": True,
    "optimizer.optimizer": "adam",
    "optimizer.lr_decay_samples": None,
    "optimizer.lr_warmup_fraction": None,
    "optimizer.lr_warmup_samples": 0,
    "optimizer.weight_decay_incr_style": "constant",
    "optimizer.decoupled_lr": None,
}
CHOICES = {
    "model.position_embedding_type": ("learned_absolute", "rope"),
    "model.normalization": ("LayerNorm", "RMSNorm"),
    "optimizer.lr_decay_style": ("constant", "linear", "cosine"),
    "precision.params_dtype": ("fp32", "bf16"),
}


def check(settings):
    """Ends the program when a setting asks for what the PyTorch side does not do."""
    bad = [f"{key}: {settings[key]} (only {value} is implemented)"
           for key, value in FIXED.items() if settings[key] != value]
    bad += [f"{key}: {settings[key]} (one of {', '.join(values)})"
            for key, values in CHOICES.items() if settings[key] not in values]
    activation = (settings["model.activation_func"], settings["model.gated_linear_unit"])
    if activation not in (("gelu_tanh", False), ("silu", True)):
        bad.append(f"model.activation_func: {activation[0]}, gated {activation[1]} (gelu_tanh plain or silu gated)")
    if bad:
        sys.exit("these settings have no counterpart here:\n  " + "\n  ".join(bad))
