#!/usr/bin/env python3
"""Writes schedule_golden.json: learning rates and weight decays of all styles, computed with 50 decimal digits.

Independent of the C++ code on purpose: it starts from the same user keys, resolves lengths itself, and uses decimal
arithmetic with its own cosine instead of the C library. Usage: make_schedule_golden.py > schedule_golden.json
"""
import json
from decimal import Decimal as D
from decimal import getcontext

getcontext().prec = 50
PI = D("3.14159265358979323846264338327950288419716939937510582097494")


def cosine(x):
    term, total, k = D(1), D(1), 0
    while abs(term) > D(10) ** -48:
        k += 2
        term *= -x * x / (k * (k - 1))
        total += term
    return total


def exact(value):
    """The real number that a double holds, so that rounding of inputs is not part of the comparison."""
    return D(float(value))


def lengths(c):
    samples = "train_samples" in c
    unit = 1 if samples else c["global_batch_size"]
    suffix = "samples" if samples else "iters"
    total = c["train_" + suffix] * unit
    decay = c["lr_decay_" + suffix] * unit if "lr_decay_" + suffix in c else total
    if "lr_warmup_fraction" in c:
        # The product is rounded to a double, as in Megatron-LM.
        warmup = exact(c["lr_warmup_fraction"] * decay)
    else:
        warmup = D(c.get("lr_warmup_" + suffix, 0) * unit)
    wsd = c.get("lr_wsd_decay_" + suffix, 0) * unit
    return total, D(decay), warmup, D(wsd)


def fall(style, x):
    """From 1 at x = 0 down at x = 1."""
    return {
        "linear": lambda: 1 - x,
        "cosine": lambda: (1 + cosine(PI * x)) / 2,
        "exponential": lambda: 2 * (-(x * D(2).ln())).exp() - 1,
        "minus_sqrt": lambda: 1 - x.sqrt(),
    }[style]()


def rate(c, n, high, low):
    _, decay, warmup, wsd = lengths(c)
    n, start = D(n), exact(c.get("lr_warmup_init", 0.0))
    style = c.get("lr_decay_style", "linear")
    if warmup and n <= warmup:
        return start + (high - start) * n / warmup
    if style == "constant":
        return high
    if n > decay:
        return low
    if style == "inverse-square-root":
        return max(low, high * (max(warmup, D(1)) / max(n, D(1))).sqrt())
    if style == "WSD":
        into = n - (decay - wsd)
        weight = fall(c.get("lr_wsd_decay_style", "exponential"), into / wsd) if into > 0 else D(1)
    else:
        weight = fall(style, (n - warmup) / (decay - warmup))
    return low + weight * (high - low)


def decay_of_weights(c, n):
    total = lengths(c)[0]
    style = c.get("weight_decay_incr_style", "constant")
    if style == "constant":
        return exact(c.get("weight_decay", 0.01))
    first, last = exact(c["start_weight_decay"]), exact(c["end_weight_decay"])
    if n > total:
        return last
    x = D(n) / total
    return first + (last - first) * (x if style == "linear" else fall("cosine", 1 - x))


def cases():
    iters = {"lr": 3e-4, "min_lr": 3e-5, "train_iters": 1000, "global_batch_size": 8}
    samples = {"lr": 1.5e-4, "min_lr": 1e-5, "train_samples": 1953125, "global_batch_size": 128}
    for style in ("constant", "linear", "cosine", "inverse-square-root"):
        yield style + ", no warm-up", {**iters, "lr_decay_style": style}
        yield style + ", warm-up by iterations", {**iters, "lr_decay_style": style, "lr_warmup_iters": 50}
        yield style + ", shorter decay, warm-up from a rate", {
            **iters, "lr_decay_style": style, "lr_decay_iters": 700, "lr_warmup_iters": 10, "lr_warmup_init": 1e-6}
        yield style + ", warm-up by fraction", {**iters, "lr_decay_style": style, "lr_warmup_fraction": 0.0137}
        yield style + ", samples", {
            **samples, "lr_decay_style": style, "lr_warmup_samples": 3907, "lr_decay_samples": 1949218}
        yield style + ", decoupled", {
            **samples, "lr_decay_style": style, "lr_warmup_samples": 1000, "decoupled_lr": 5e-4,
            "decoupled_min_lr": 4.5e-5}
    for wsd in ("linear", "cosine", "exponential", "minus_sqrt"):
        base = {"lr_decay_style": "WSD", "lr_wsd_decay_style": wsd}
        yield "WSD " + wsd, {**iters, **base, "lr_wsd_decay_iters": 200, "lr_warmup_iters": 20}
        yield "WSD " + wsd + ", shorter decay", {
            **iters, **base, "lr_wsd_decay_iters": 100, "lr_decay_iters": 900, "decoupled_lr": 1e-3}
        yield "WSD " + wsd + ", samples", {
            **samples, **base, "lr_wsd_decay_samples": 195312, "lr_warmup_fraction": 0.01}
        yield "WSD " + wsd + ", all annealing", {**iters, **base, "lr_wsd_decay_iters": 1000}
    for ramp in ("linear", "cosine"):
        yield "weight decay " + ramp, {
            **iters, "weight_decay_incr_style": ramp, "start_weight_decay": 0.01, "end_weight_decay": 0.1}
        yield "weight decay " + ramp + ", samples", {
            **samples, "weight_decay_incr_style": ramp, "start_weight_decay": 0.0, "end_weight_decay": 0.033}


def points(c):
    total, decay, warmup, wsd = lengths(c)
    edges = [0, int(warmup), int(decay - wsd), int(decay), total]
    found = {1, 2, total // 3, total // 2, total * 3 // 4, total * 9 // 10, total * 2}
    for edge in edges:
        found |= {edge - 1, edge, edge + 1}
    return sorted(n for n in found if n >= 0)


def main():
    out = []
    for name, c in cases():
        high, low = exact(c["lr"]), exact(c["min_lr"])
        decoupled = exact(c.get("decoupled_lr", c["lr"])), exact(c.get("decoupled_min_lr", c["min_lr"]))
        rows = [[n, float(rate(c, n, high, low)), float(rate(c, n, *decoupled)), float(decay_of_weights(c, n))]
                for n in points(c)]
        out.append({"name": name, "settings": c, "points": rows})
    lines = ",\n".join(json.dumps(case) for case in out)
    print("[\n" + lines + "\n]")


if __name__ == "__main__":
    main()
