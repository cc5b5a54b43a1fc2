#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_tables.inc: character classes and the data of NFC.

    pip install unicodedata2==16.0.0        (or a Python whose own unicodedata is version 16.0.0)
    scripts/golden/tokenizer_unicode.py

Letters, numbers and white space follow Unicode 16, as the regular expressions of Hugging Face's `tokenizers` 0.23 do.
Its NFC knows only Unicode 9: what was added later neither composes nor is reordered. AFTER_UNICODE_9 lists those code
points, found by comparing all of them with the library.
"""
import pathlib

try:
    import unicodedata2 as unicode
except ImportError:
    import unicodedata as unicode

assert unicode.unidata_version == "16.0.0", f"needs Unicode 16.0.0, this is {unicode.unidata_version}"

AFTER_UNICODE_9 = [
    (0x7FD, 0x7FD), (0x897, 0x89F), (0x8CA, 0x8D3), (0x9FE, 0x9FE), (0xC3C, 0xC3C), (0xD3B, 0xD3C), (0xEBA, 0xEBA),
    (0x1715, 0x1715), (0x1ABF, 0x1ACE), (0x1DF6, 0x1DFA), (0xA82C, 0xA82C), (0x105C9, 0x105C9), (0x105E4, 0x105E4),
    (0x10D24, 0x10D27), (0x10D69, 0x10D6D), (0x10EAB, 0x10EAC), (0x10EFD, 0x10EFF), (0x10F46, 0x10F50),
    (0x10F82, 0x10F85), (0x11070, 0x11070), (0x1133B, 0x1133B), (0x11383, 0x11383), (0x11385, 0x11385),
    (0x1138E, 0x1138E), (0x11391, 0x11391), (0x113C5, 0x113C5), (0x113C7, 0x113C8), (0x113CE, 0x113D0),
    (0x1145E, 0x1145E), (0x11839, 0x1183A), (0x11938, 0x11938), (0x1193D, 0x1193E), (0x11943, 0x11943),
    (0x119E0, 0x119E0), (0x11A34, 0x11A34), (0x11A47, 0x11A47), (0x11A99, 0x11A99), (0x11D42, 0x11D42),
    (0x11D44, 0x11D45), (0x11D97, 0x11D97), (0x11F41, 0x11F42), (0x16121, 0x16128), (0x1612F, 0x1612F),
    (0x16D68, 0x16D6A), (0x16FF0, 0x16FF1), (0x1E08F, 0x1E08F), (0x1E130, 0x1E136), (0x1E2AE, 0x1E2AE),
    (0x1E2EC, 0x1E2EF), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF),
]
LATER = {c for first, last in AFTER_UNICODE_9 for c in range(first, last + 1)}
SPACES = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
CIRCLED = {*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)}
LETTER, NUMBER, SPACE, WORD = 1, 2, 4, 8


def char_class(c):
    category = unicode.category(chr(c))
    bits = (LETTER if category[0] == "L" else 0) | (NUMBER if category[0] == "N" else 0) | (SPACE if c in SPACES else 0)
    word = category[0] in "LM" or category in ("Nd", "Nl", "Pc") or c in CIRCLED or c in (0x200C, 0x200D)
    return bits | (WORD if word else 0)


def ranges(value_of):
    """Runs of one non-zero value: (first, last, value)."""
    result = []
    for c in range(0x110000):
        value = 0 if 0xD800 <= c <= 0xDFFF else value_of(c)
        if value and result and result[-1][1] == c - 1 and result[-1][2] == value:
            result[-1][1] = c
        elif value:
            result.append([c, c, value])
    return result


def decompositions():
    """(code point, first part, second part or 0, 1 if the pair composes to it again); Hangul is computed instead."""
    for c in range(0x110000):
        text = unicode.decomposition(chr(c))
        if text and not text.startswith("<") and c not in LATER:
            parts = [int(part, 16) for part in text.split()]
            composes = len(parts) == 2 and unicode.normalize("NFC", "".join(map(chr, parts))) == chr(c)
            yield c, parts[0], parts[1] if len(parts) == 2 else 0, int(composes)


def table(out, kind, name, rows):
    out.append(f"constexpr {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        cell = " {" + ", ".join(hex(x) if x > 255 else str(x) for x in row) + "},"
        if len(line) + len(cell) > 119:
            out.append(line)
            line = "   "
        line += cell
    out += [line, "};"]


def main():
    out = ["// Made by scripts/golden/tokenizer_unicode.py from Unicode 16.0.0 (NFC: what Unicode 9 had). Do not edit.",
           "// clang-format off"]
    table(out, "UnicodeRange", "kClassRanges", ranges(char_class))
    table(out, "UnicodeRange", "kCombiningRanges", ranges(lambda c: 0 if c in LATER else unicode.combining(chr(c))))
    table(out, "Decomposition", "kDecompositions", decompositions())
    out.append("// clang-format on")
    root = pathlib.Path(__file__).resolve().parents[2]
    (root / "src/tokenizer/unicode_tables.inc").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
