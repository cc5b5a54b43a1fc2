#!/usr/bin/env bash
# scripts/package.sh on a program that is built already: the bundle is complete, and a damaged one is found out.
#   tests/scripts/package_test.sh BUILD_DIR
set -euo pipefail
build_dir=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  printf 'package_test: %s\n' "$1" >&2
  exit 1
}

# refused CODE TEXT COMMAND ...: it ends with this code, and says this.
refused() {
  local code=0 wanted=$1 text=$2
  shift 2
  "$@" >"$work/said" 2>&1 || code=$?
  [[ $code -eq $wanted ]] || fail "exit code $code instead of $wanted: $* ($(cat "$work/said"))"
  grep -qF -- "$text" "$work/said" || fail "'$text' is missing in what '$*' said: $(cat "$work/said")"
}

# repacked NAME COMMAND ...: the bundle with COMMAND run in its folder and its MANIFEST brought up to date.
repacked() {
  local name=$1 root
  shift
  rm -rf "$work/change" && mkdir "$work/change"
  tar -xzf "$bundle" -C "$work/change"
  root=$(echo "$work"/change/megatron-*)
  (cd "$root" && "$@")
  tar -C "$work/change" -czf "$work/$name.tar.gz" "$(basename "$root")"
}

relist() {
  sed -n '1,/^files$/p' MANIFEST >../list
  find . -type f ! -name MANIFEST -printf '%P\n' | sort | xargs -d '\n' sha256sum >>../list
  mv ../list MANIFEST
}
without_library() { rm lib/libyaml-cpp.so.* && relist; }
damaged() { printf 'x' >>configs/quickstart.yaml; }
without_program() { rm bin/megatron; }

scripts/package.sh --build-dir "$build_dir" --output "$work/dist" --no-install | tee "$work/log"
bundle=$(echo "$work"/dist/megatron-*.tar.gz)
[[ -f $bundle ]] || fail "there is no bundle"
grep -q 'complete, and megatron' "$work/log" || fail "the bundle did not verify itself"
tar -tzf "$bundle" >"$work/files"
for wanted in bin/megatron lib/libyaml-cpp configs/quickstart.yaml LICENSE README.md MANIFEST licences/README.md; do
  grep -qF "/$wanted" "$work/files" || fail "$wanted is not in the bundle"
done
if grep -qE '/lib/lib(c|m|cuda)\.so' "$work/files"; then fail "the bundle holds libraries of the system"; fi

repacked incomplete without_library
refused 1 'takes libyaml-cpp' scripts/package.sh --verify "$work/incomplete.tar.gz"
repacked changed damaged
refused 1 'differ from its MANIFEST' scripts/package.sh --verify "$work/changed.tar.gz"
repacked empty without_program
refused 1 'holds no bin/megatron' scripts/package.sh --verify "$work/empty.tar.gz"
refused 2 "unknown argument '--fast'" scripts/package.sh --fast
refused 2 '--preset needs a value' scripts/package.sh --preset
refused 2 'there is no such file' scripts/package.sh --verify "$work/none.tar.gz"
refused 2 'is not there; build it' scripts/package.sh --build-dir "$work" --output "$work/dist"
refused 0 'scripts/package.sh' scripts/package.sh --help
if ! objdump -p "$build_dir/megatron" | grep -q libcudart; then
  refused 2 'was built without CUDA' scripts/package.sh --build-dir "$build_dir" --output "$work/dist" --with-cuda
fi
echo "package_test: passed"
