#!/usr/bin/env bash
# Checks that the C++ and CUDA sources are formatted as .clang-format says. `--fix` formats them instead.
# Versions of clang-format differ in details, so exactly version 14 is asked for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'check_format.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

case ${1:-} in
  '') mode=(--dry-run --Werror) ;;
  --fix) mode=(-i) ;;
  *) fail "unknown argument '$1'; known: --fix" 2 ;;
esac

tool=
for candidate in clang-format-14 clang-format; do
  if command -v "$candidate" >/dev/null && [[ $("$candidate" --version) == *"version 14."* ]]; then
    tool=$candidate
    break
  fi
done
[[ -n $tool ]] || fail "clang-format 14 is not installed; scripts/install_deps.sh --tests installs it"

# The files under version control; in an unpacked archive, all of them.
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  mapfile -t files < <(git ls-files -- 'src/*' 'kernels/*' 'tests/*' | grep -E '\.(h|cpp|cuh|cu)$' || true)
else
  mapfile -t files < <(find src kernels tests -regextype posix-extended -regex '.*\.(h|cpp|cuh|cu)' | sort)
fi
[[ ${#files[@]} -gt 0 ]] || fail "found no source files to check"

if ! printf '%s\0' "${files[@]}" | xargs -0 -n 20 -P "$(nproc)" "$tool" "${mode[@]}"; then
  fail "some files are not formatted; scripts/check_format.sh --fix formats them"
fi
printf 'check_format: %d files are formatted\n' "${#files[@]}"
