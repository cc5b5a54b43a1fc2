#!/usr/bin/env python3
"""Writes the golden token files in tests/data/golden with nothing but struct, from the format's description.

    python3 scripts/golden/data_indexed.py [FOLDER]

Each case is a list of documents, a document is a list of sequences, a sequence a list of token ids.
"""
import json
import os
import struct
import sys

FORMATS = {"u16": (8, "<H"), "i32": (4, "<i")}
EOD = 256


def write(prefix, dtype, documents):
    code, item = FORMATS[dtype]
    size = struct.calcsize(item)
    sequences = [sequence for document in documents for sequence in document]
    with open(prefix + ".bin", "wb") as out:
        for sequence in sequences:
            for token in sequence:
                out.write(struct.pack(item, token))
    with open(prefix + ".idx", "wb") as out:
        out.write(b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code))
        out.write(struct.pack("<QQ", len(sequences), len(documents) + 1))
        for sequence in sequences:
            out.write(struct.pack("<i", len(sequence)))
        pointer = 0
        for sequence in sequences:
            out.write(struct.pack("<q", pointer))
            pointer += len(sequence) * size
        border = 0
        out.write(struct.pack("<q", border))
        for document in documents:
            border += len(document)
            out.write(struct.pack("<q", border))


def of_text(texts):
    """One document as preprocess makes it from bytes: empty sentences dropped, end of document on the last one."""
    sequences = [list(text.encode()) for text in texts if text]
    if sequences:
        sequences[-1].append(EOD)
    return sequences


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../../tests/data/golden")
    os.makedirs(folder, exist_ok=True)
    write(os.path.join(folder, "short"), "u16", [[[1, 2, 3]], [[65535, 0], [7]], [], [[256]]])
    write(os.path.join(folder, "wide"), "i32", [[[100000, 0, 2147483647]], [[5] * 40]])
    write(os.path.join(folder, "nothing"), "u16", [])

    rows = [
        {"id": 1, "text": "Hello, world.\nSecond line.", "title": "greeting"},
        {"text": "", "title": "na\u00efve \u4e2d", "extra": {"deep": [1, -2.5, True, None, {"text": "not this"}]}},
        {"title": "caf\u00e9 \u4e2d \U0001f600", "text": "quote \" backslash \\ tab\t slash / \u00e9\u4e2d\U0001f600"},
        {"text": ["Split into.", "", "Sentences."], "title": "list"},
        {"title": "", "text": "last"},
    ]
    with open(os.path.join(folder, "rows.jsonl"), "w", encoding="utf-8") as out:
        for number, row in enumerate(rows):
            # Both ways to write what isn't ASCII, and an empty line in between.
            out.write(json.dumps(row, ensure_ascii=number % 2 == 0) + "\n" + ("\n" if number == 1 else ""))
    for key in ("text", "title"):
        values = [row[key] if isinstance(row[key], list) else [row[key]] for row in rows]
        write(os.path.join(folder, f"rows_{key}_document"), "u16", [of_text(value) for value in values])


if __name__ == "__main__":
    main()
