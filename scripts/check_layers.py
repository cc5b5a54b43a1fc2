#!/usr/bin/env python3
"""Checks the shape of the source tree and names file:line for everything that is wrong.

  edges      a room includes only the rooms below it (ROOMS), heavy third-party headers only where they belong (HEAVY)
  budgets    lines of a header, a source, a kernel file and a function (EXCEPTIONS holds the reasons for going beyond)
  readmes    every room has a README.md

With --self-test it plants one fault of each kind in a copy of a tiny tree and checks that each is found.
"""
import pathlib
import re
import sys
import tempfile

# Room -> rooms it may include. `base` is the floor of the house, open to all but the kernels, which are compiled for
# devices too and see only the base headers in KERNEL_BASE.
ROOMS = {
    "base": "",
    "config": "base",
    "device": "base",
    "tensor": "base device",
    "program": "base device tensor",
    "kernels": "device tensor program",
    "comm": "base device tensor program",
    "parallel": "base device tensor program comm config",
    "nn": "base device tensor program kernels parallel config",
    "models": "base tensor nn config",
    "tokenizer": "base",
    "data": "base config tokenizer",
    "optim": "base device tensor program kernels parallel config",
    "checkpoint": "base device tensor program parallel models tokenizer config",
    "train": "base config device tensor program kernels comm parallel nn models tokenizer data optim checkpoint",
    "inference": "base config device tensor program kernels parallel nn models tokenizer checkpoint",
    "cli": "base config device tensor program kernels comm parallel nn models tokenizer data optim checkpoint train "
           "inference",
}
TESTS_ALSO_LINK = {"parallel": ["train", "inference"]}  # whole models on meshes
KERNEL_BASE = {"base/check.h", "base/philox.h", "base/zigzag.h"}  # anywhere, device code included
KERNEL_HOST_BASE = KERNEL_BASE | {"base/error.h", "base/strings.h", "base/thread_pool.h"}  # not in .cu and .cuh files

# Third-party headers: pattern, name, rooms whose .cpp files may include them. No header and no .cu file may.
HEAVY = [
    (r"fmt/", "fmt", set(ROOMS) - {"kernels"}),
    (r"spdlog/", "spdlog", {"base"}),
    (r"nlohmann/(?!json_fwd)", "json", set(ROOMS) - {"device", "tensor", "program", "kernels", "comm", "parallel", "nn"}),
    (r"yaml-cpp/", "yaml-cpp", {"config"}),
    (r"CLI/", "CLI11", {"cli"}),
]

BUDGET = {"header": 200, "source": 450, "kernel": 600, "function": 60}

# What may go beyond its budget: "path" or "path:function" -> (lines, reason).
EXCEPTIONS = {}

SUFFIXES = {".h", ".cuh", ".cpp", ".cu"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


class Checker:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.errors = []
        self.files = 0
        self.edges = 0

    def error(self, path, line, message):
        self.errors.append(f"{path.relative_to(self.root)}:{line}: {message}")

    def room_of(self, path):
        """The room of a file under src/ or kernels/; for a test, the room it tests."""
        parts = path.relative_to(self.root).parts
        if parts[0] == "kernels":
            return "kernels"
        if len(parts) < 3:
            return None
        return parts[1]

    def closure(self, room):
        """All rooms that come with a room when it is linked."""
        seen, todo = set(), [room]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += ROOMS[name].split()
        return seen

    def check_project_include(self, path, line, room, name, is_test):
        places = [self.root / "src" / name, self.root / name] + ([path.parent / name] if is_test else [])
        target = next((place for place in places if place.is_file()), None)
        if target is None:
            self.error(path, line, f'"{name}" is neither under src/ nor under the top folder; write its path from there')
            return
        parts = target.relative_to(self.root).parts
        if parts[0] == "tests":
            if not is_test:
                self.error(path, line, f'includes the test header "{name}"')
            return
        self.edges += 1
        other = self.room_of(target)
        if is_test:
            linked = set().union(*map(self.closure, [room, *TESTS_ALSO_LINK.get(room, ())]))
            if other not in linked | {"base"}:
                self.error(path, line, f"a test of {room} includes {other}, which {room} does not link")
        elif room == "kernels" and other == "base":
            allowed = KERNEL_BASE if path.suffix in {".cu", ".cuh"} else KERNEL_HOST_BASE
            if name not in allowed:
                self.error(path, line, f'kernels may include only {", ".join(sorted(allowed))} of base here, not "{name}"')
        elif other != room and other not in ROOMS[room].split():
            allowed = ROOMS[room] or "nothing"
            self.error(path, line, f'{room} may not include {other} ("{name}"); it may include: {allowed}')

    def check_system_include(self, path, line, room, name):
        for pattern, library, rooms in HEAVY:
            if not re.match(pattern, name):
                continue
            if path.suffix != ".cpp":
                self.error(path, line, f"{library} may be included in .cpp files only: its headers are slow to compile")
            elif room not in rooms:
                self.error(path, line, f"{room} may not include {library}; rooms that may: {', '.join(sorted(rooms))}")

    def check_includes(self, path, lines, room, is_test):
        for number, text in enumerate(lines, 1):
            match = INCLUDE.match(text)
            if not match:
                continue
            quoted, system = match.groups()
            if quoted and not re.match("|".join(pattern for pattern, _, _ in HEAVY), quoted):
                self.check_project_include(path, number, room, quoted, is_test)
            elif not is_test:
                self.check_system_include(path, number, room, quoted or system)

    def over_budget(self, key, kind, lines):
        limit = EXCEPTIONS[key][0] if key in EXCEPTIONS else BUDGET[kind]
        return f"{lines} lines; the budget of a {kind} is {limit}" if lines > limit else None

    def check_budgets(self, path, lines, room):
        name = str(path.relative_to(self.root))
        kind = "header" if path.suffix in {".h", ".cuh"} else "kernel" if room == "kernels" else "source"
        problem = self.over_budget(name, kind, len(lines))
        if problem:
            self.error(path, len(lines), problem)
        for start, end, function in find_functions(lines):
            problem = self.over_budget(f"{name}:{function}", "function", end - start + 1)
            if problem:
                self.error(path, start, f"{function} has {problem}")

    def sources(self, folder):
        return sorted(p for p in (self.root / folder).rglob("*") if p.suffix in SUFFIXES)

    def run(self):
        rooms = set()
        for path in self.sources("src") + self.sources("kernels"):
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            room = self.room_of(path)
            if room not in ROOMS:
                self.error(path, 1, f"belongs to no room of the house; rooms: {', '.join(ROOMS)}")
                continue
            rooms.add(room)
            self.files += 1
            self.check_includes(path, lines, room, is_test=False)
            self.check_budgets(path, lines, room)
        for path in self.sources("tests"):
            room = self.room_of(path)
            if room in ROOMS:  # tests/<room>/; what lies directly in tests/ is shared by all
                self.check_includes(path, path.read_text(encoding="utf-8").split("\n"), room, is_test=True)
        for room in sorted(rooms):
            folder = self.root / ("kernels" if room == "kernels" else f"src/{room}")
            if not (folder / "README.md").is_file():
                self.error(folder / "README.md", 1, f"the room {room} has no README.md")
        for key in EXCEPTIONS:
            if not (self.root / key.split(":")[0]).is_file():
                self.error(self.root / key.split(":")[0], 1, "has an exception to its budget, but does not exist")
        return self.errors


TYPE_OR_NAMESPACE = re.compile(r"(template <.*> )?(inline )?(namespace|struct|class|enum|union|extern)\b")


def find_functions(lines):
    """Yields (first line, last line, name) of functions of files, namespaces and outermost classes.

    Relies on the format of the sources: namespaces are not indented, class members are, by two columns.
    """
    head, first, indent, inside = "", 0, 0, False
    for number, text in enumerate(lines, 1):
        column = len(text) - len(text.lstrip(" "))
        if inside:
            if column == indent and text[column:].startswith("}"):
                name = re.findall(r"([\w:~]+|operator\S+)\s*\(", head)
                yield first, number, name[0] if name else "?"
                head, inside = "", False
            continue
        if not text.strip() or text[column] in "}#/" or text.endswith(":"):
            head = ""
            continue
        if not head:
            if column not in (0, 2):
                continue
            first, indent = number, column
        head += text.strip() + " "
        if text.endswith((";", "}")) or TYPE_OR_NAMESPACE.match(head):
            head = ""
        elif text.endswith("{"):
            inside = "(" in head and not head.endswith("= { ")
            head = head if inside else ""


def self_test():
    """Each planted fault must be found, and the clean tree must pass."""
    EXCEPTIONS.clear()  # they speak of this repository's files
    long_body = "int f() {\n" + "  g();\n" * 60 + "}\n"
    member = "class A {\n public:\n  A() : a_(1) {}\n  int f() const {\n" + "    g();\n" * 60 + "  }\n};\n"
    wrapped = "int f(int a,\n      int b) {\n" + "  g();\n" * 60 + "}\n"
    clean = {
        "src/base/a.h": "#pragma once\n#include <string>\n", "src/base/README.md": "base\n",
        "src/config/c.cpp": '#include "base/a.h"\n#include <yaml-cpp/yaml.h>\n', "src/config/README.md": "config\n",
        "src/base/check.h": "\n", "kernels/op/op.h": '#include "base/check.h"\n', "kernels/README.md": "kernels\n",
        "src/config/j.h": "#include <nlohmann/json_fwd.hpp>\n", "tests/catch.h": "\n", "tests/config/helpers.h": "\n",
        "tests/config/t.cpp": '#include "tests/catch.h"\n#include "helpers.h"\n#include "base/a.h"\n',
    }
    faults = {
        "edge upwards": ("src/base/b.cpp", '#include "config/c.h"\n', "may not include config"),
        "kernel sees base": ("kernels/op/op.cpp", '#include "base/a.h"\n', "kernels may include only"),
        "heavy header": ("src/base/c.h", "#include <fmt/core.h>\n", ".cpp files only"),
        "json in a header": ("src/base/c.h", "#include <nlohmann/json.hpp>\n", ".cpp files only"),
        "heavy, quoted": ("src/base/c.h", '#include "fmt/core.h"\n', ".cpp files only"),
        "heavy, wrong room": ("src/base/d.cpp", "#include <yaml-cpp/yaml.h>\n", "base may not include yaml-cpp"),
        "unknown path": ("src/base/e.cpp", '#include "a.h"\n', "neither under src/"),
        "test reaches up": ("tests/base/t.cpp", '#include "config/c.h"\n', "which base does not link"),
        "test header": ("src/base/f.cpp", '#include "tests/catch.h"\n', "includes the test header"),
        "long header": ("src/base/long.h", "\n" * 201, "budget of a header is 200"),
        "long source": ("src/base/long.cpp", "\n" * 451, "budget of a source is 450"),
        "long kernel": ("kernels/op/long.cu", "\n" * 601, "budget of a kernel is 600"),
        "long function": ("src/base/g.cpp", long_body, "f has 62 lines"),
        "long, wrapped": ("src/base/g.cpp", wrapped, "f has 63 lines"),
        "long, member": ("src/base/g.cpp", member, "f has 62 lines"),
        "no readme": ("src/device/a.cpp", "\n", "device has no README.md"),
        "no such room": ("src/attic/a.cpp", "\n", "belongs to no room"),
    }
    extra = {"src/config/c.h": "#pragma once\n"}
    for name, (path, text, expected) in {"clean tree": (None, None, None), **faults}.items():
        with tempfile.TemporaryDirectory() as folder:
            for file, content in {**clean, **extra, **({path: text} if path else {})}.items():
                target = pathlib.Path(folder) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content, encoding="utf-8")
            errors = Checker(folder).run()
            found = any(expected in e for e in errors) if expected else not errors
            if not found or len(errors) != (1 if expected else 0):
                sys.exit(f"check_layers: self-test '{name}' failed: {errors}")
    print(f"check_layers: self-test found all {len(faults)} planted faults")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:]:
        sys.exit("usage: check_layers.py [--self-test]")
    checker = Checker(pathlib.Path(__file__).resolve().parent.parent)
    errors = checker.run()
    if checker.files == 0:
        sys.exit("check_layers: found no sources to check")
    for error in errors:
        print(error, file=sys.stderr)
    if errors:
        sys.exit(f"check_layers: {len(errors)} problem(s)")
    print(f"check_layers: {checker.files} files and {checker.edges} include edges are in order")


if __name__ == "__main__":
    main()
