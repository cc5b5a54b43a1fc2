#!/usr/bin/env python3
"""Compares the losses of two runs, iteration by iteration: compare.py A/metrics.jsonl B.jsonl [--bound 0.01]

Exit code 1 when the losses of the last iteration, or their means over the last 20, differ by more than the bound.
"""
import argparse
import json
import statistics
import sys


def read(path):
    """{iteration: line}; of a repeated iteration the last line counts."""
    lines = {}
    with open(path) as stream:
        for text in stream:
            line = json.loads(text)
            if line.get("lm_loss") is not None:
                lines[line["iteration"]] = line
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("theirs")
    parser.add_argument("--bound", type=float, default=0.01, help="nats")
    parser.add_argument("--rate-bound", type=float, default=1e-9, help="relative, of learning rates")
    arguments = parser.parse_args()
    ours, theirs = read(arguments.ours), read(arguments.theirs)
    if not ours or set(ours) != set(theirs):
        common = len(set(ours) & set(theirs))
        sys.exit(f"iterations differ: {len(ours)} and {len(theirs)}, of which {common} are common")
    iterations = sorted(ours)
    difference = {i: ours[i]["lm_loss"] - theirs[i]["lm_loss"] for i in iterations}
    tail = iterations[-20:]
    last, mean = difference[iterations[-1]], statistics.fmean(difference[i] for i in tail)
    worst = max(iterations, key=lambda i: abs(difference[i]))
    rates = max(abs(ours[i]["learning_rate"] - theirs[i]["learning_rate"]) / max(theirs[i]["learning_rate"], 1e-30)
                for i in iterations)
    norms = max(abs(ours[i]["grad_norm"] / theirs[i]["grad_norm"] - 1) for i in iterations[:20])
    for i in (iterations[0], iterations[len(iterations) // 2], iterations[-1]):
        print(f"iteration {i:6d}: {ours[i]['lm_loss']:.6f} {theirs[i]['lm_loss']:.6f} difference {difference[i]:+.2e}")
    print(f"mean of the last {len(tail)}: difference {mean:+.2e}; "
          f"greatest at iteration {worst}: {difference[worst]:+.2e}")
    blocks = [iterations[a: a + 30] for a in range(0, len(iterations), 30)]
    spread = " ".join(f"{max(abs(difference[i]) for i in block):.0e}" for block in blocks)
    print(f"greatest difference of each 30 iterations: {spread}")
    print(f"gradient norm, first 20: within {norms:.1e}; learning rate: within {rates:.1e}")
    good = abs(last) <= arguments.bound and abs(mean) <= arguments.bound and rates <= arguments.rate_bound
    print(f"{'same' if good else 'NOT the same'} within {arguments.bound} nats after {len(iterations)} iterations")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
