#!/usr/bin/env python3
"""The table of a speed comparison: speed_table.py FOLDER MODEL... [--least 0.9]

FOLDER holds MODEL.ours-N.json (`megatron bench step --json`) and MODEL.torch-N.json (speed_torch.py), one pair a round.
Exit code 1 when the best round of ours is slower than --least times the best round of PyTorch.
"""
import argparse
import json
import pathlib
import sys


def rounds(folder, pattern):
    found = [json.loads(path.read_text()) for path in sorted(pathlib.Path(folder).glob(pattern))]
    if not found:
        sys.exit(f"{folder}: there is no {pattern}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--least", type=float, default=0.9)
    arguments = parser.parse_args()
    good = True
    print(f"{'model':20} {'shape':10} {'ours tokens/s':>22} {'GiB':>6} {'host':>6} "
          f"{'PyTorch tokens/s':>22} {'GiB':>6} ratio")
    for model in arguments.models:
        ours, peer = (rounds(arguments.folder, f"{model}.{name}-*.json") for name in ("ours", "torch"))
        a, b = ([r["tokens_per_second"] for r in side] for side in (ours, peer))
        ratio = max(a) / max(b)
        good = good and ratio >= arguments.least
        host = ours[0]["host_seconds"]
        print(f"{model:20} {peer[0]['shape']:10} {' '.join(f'{x:.0f}' for x in a):>22} "
              f"{(ours[0]['allocated_bytes'] + ours[0]['library_bytes']) / 2**30:6.1f} "
              f"{'' if host is None else format(host / ours[0]['step_seconds'], '.1%'):>6} "
              f"{' '.join(f'{x:.0f}' for x in b):>22} {peer[0]['peak_gib']:6.1f} {ratio:5.2f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
