#!/usr/bin/env python3
"""Writes src/config/megatron_args.inc, the compiled-in form of src/config/megatron_args.tsv.

Run it after an edit of the table; tests/config compares the two.
"""
import pathlib

folder = pathlib.Path(__file__).resolve().parent.parent / "src" / "config"


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def main():
    lines = ["// Made from megatron_args.tsv by scripts/make_megatron_args.py: edit the table, not this file.\n"]
    for line in (folder / "megatron_args.tsv").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        options, key, values, note = line.split("\t")
        lines.append("{%s, %s, '%s', %s},\n" % (quoted(options), quoted(key), values, quoted(note)))
    (folder / "megatron_args.inc").write_text("".join(lines))


if __name__ == "__main__":
    main()
