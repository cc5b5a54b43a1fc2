#!/usr/bin/env bash
# Configures a preset and builds it. Used by the other scripts, and by hand:
#   scripts/build.sh [--preset NAME] [--no-tests] [--no-install] [TARGET ...]
# The preset is one of CMakePresets.json (default: release); without a TARGET everything is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'build.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

preset=release
tests=ON
install=true
targets=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --preset)
      [[ $# -ge 2 ]] || fail "--preset needs a name" 2
      preset=$2
      shift
      ;;
    --no-tests) tests=OFF ;;
    --no-install) install=false ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    -*) fail "unknown argument '$1'; known: --preset NAME, --no-tests, --no-install, --help" 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done

if $install; then
  if [[ $tests == ON ]]; then scripts/install_deps.sh --tests; else scripts/install_deps.sh; fi
fi

options=("-DMEGATRON_TESTS=${tests}")
# A compiler cache and a fast linker are used where they are installed; neither changes the result.
command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache)
command -v mold >/dev/null && options+=(-DCMAKE_EXE_LINKER_FLAGS=-fuse-ld=mold)

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cmake --preset "$preset" "${options[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  fail "cmake could not configure the preset '$preset'; see above"
fi
if [[ ${#targets[@]} -gt 0 ]]; then
  cmake --build "build/$preset" --target "${targets[@]}"
else
  cmake --build "build/$preset"
fi
