#!/usr/bin/env python3
"""Reads event files with TensorBoard's own reader and compares them with metrics.jsonl.

    check_tensorboard.py RUN_DIR            (needs: pip install tensorboard)

Every `lm_loss`, `grad_norm`, `learning_rate` and `valid_lm_loss` of metrics.jsonl must be in the event files under its
tag, equal to fp32 precision. Exit code 0 when all agree, 1 when something differs, 2 when the check could not be made.
"""
import argparse
import json
import os
import struct
import sys

TAGS = {"lm_loss": "lm loss", "grad_norm": "grad-norm", "learning_rate": "learning-rate",
        "valid_lm_loss": "lm loss validation"}


def fp32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def fail(code, message):
    print("check_tensorboard: " + message, file=sys.stderr)
    sys.exit(code)


def read_metrics(path):
    """iteration -> object; the last line of an iteration counts."""
    rows = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                row = json.loads(line)
                rows[row["iteration"]] = row
    return rows


def read_events(folder, accumulator):
    events = accumulator.EventAccumulator(folder, size_guidance={accumulator.SCALARS: 0})
    events.Reload()
    # A repeated step: the last one counts, as in metrics.jsonl.
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--tensorboard-dir", help="default: RUN_DIR/tensorboard")
    args = parser.parse_args()
    try:
        from tensorboard.backend.event_processing import event_accumulator
    except ImportError:
        fail(2, "TensorBoard is not installed: pip install tensorboard")
    metrics = os.path.join(args.run_dir, "metrics.jsonl")
    folder = args.tensorboard_dir or os.path.join(args.run_dir, "tensorboard")
    for path in (metrics, folder):
        if not os.path.exists(path):
            fail(2, "there is no " + path)
    rows, scalars = read_metrics(metrics), read_events(folder, event_accumulator)
    compared = 0
    for key, tag in TAGS.items():
        points = scalars.get(tag, {})
        for iteration, row in rows.items():
            if row.get(key) is None:
                continue
            if iteration not in points:
                fail(1, f"{tag}: iteration {iteration} is missing")
            if points[iteration] != fp32(row[key]):
                fail(1, f"{tag}: iteration {iteration} is {points[iteration]}, metrics.jsonl has {row[key]}")
            compared += 1
    if compared == 0:
        fail(1, "there was nothing to compare")
    print(f"{compared} values agree; tags: {', '.join(sorted(scalars))}")


if __name__ == "__main__":
    main()
