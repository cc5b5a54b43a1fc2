#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests. Needs no GPU.
#   scripts/test.sh              checks of the sources, then the tests labelled fast and full
#   scripts/test.sh --fast       only the tests labelled fast
#   scripts/test.sh --sanitize   the fast tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   scripts/test.sh --checks     only the checks of the sources: include edges, file sizes, format, shell scripts
# --no-install (with any of these) leaves the packages alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'test.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

preset=cpu-release
label='^(fast|full)$'
install=true
run_tests=true
for argument in "$@"; do
  case $argument in
    --fast) label='^fast$' ;;
    --sanitize) preset=cpu-debug label='^fast$' ;;
    --checks) run_tests=false ;;
    --no-install) install=false ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail "unknown argument '$argument'; known: --fast, --sanitize, --checks, --no-install, --help" 2 ;;
  esac
done

step() {
  printf '\n== %s (%d s)\n' "$1" "$SECONDS"
}

if $install; then
  step "packages"
  scripts/install_deps.sh --tests
fi

step "sources"
scripts/check_layers.py --self-test
scripts/check_layers.py
scripts/check_format.sh
mapfile -t shell_scripts < <(grep -lsE '^#!.*\b(bash|sh)$' scripts/* scripts/slurm/* .ci/* tests/scripts/* tests/parity/* tests/checkpoint/* || true)
shellcheck "${shell_scripts[@]}"
printf 'check_shell: %d scripts are clean\n' "${#shell_scripts[@]}"
if ! $run_tests; then exit 0; fi

step "build ($preset)"
scripts/build.sh --no-install --preset "$preset"

step "tests ($label)"
# Tests run side by side, so each keeps to one BLAS thread.
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A test that runs away fails instead of taking the machine with it (the sanitizers reserve address space of their own).
[[ $preset == cpu-debug ]] || ulimit -Sv $((8 * 1024 * 1024))
ctest --test-dir "build/$preset" --label-regex "$label" --parallel "$(nproc)" --timeout 300 --no-tests=error \
  --output-on-failure
printf '\ntest.sh: done in %d s\n' "$SECONDS"
