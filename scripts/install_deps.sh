#!/usr/bin/env bash
# Installs the packages that are missing, and nothing else. Lists: third_party/packages-*.txt.
#   scripts/install_deps.sh            what the build needs
#   scripts/install_deps.sh --tests    also what scripts/test.sh needs
#   scripts/install_deps.sh --corpus   also fetches the text of the quick start into data/corpus/
# Where there is an nvcc, it also fetches the headers that cuDNN attention needs into third_party/cudnn-frontend/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly installed_corpus=/usr/share/dictd/gcide.dict.dz  # when the user has the dictionary installed
readonly fetched_corpus=data/corpus/gcide.dict.dz
readonly cudnn_frontend=nvidia-cudnn-frontend==1.32.0  # header-only; the wheel's Python part is not used
readonly cudnn_headers=third_party/cudnn-frontend

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

fail() {
  printf 'install_deps.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

# os_release FIELD: its value, without quotes.
os_release() {
  awk -F= -v field="$1" '$1 == field { gsub(/"/, "", $2); print $2 }' /etc/os-release 2>/dev/null || true
}

# The package list of this distribution.
package_list() {
  local id version
  id=$(os_release ID)
  version=$(os_release VERSION_ID)
  local list="third_party/packages-${id}${version}.txt"
  if [[ ! -f $list ]]; then
    fail "this is ${id:-an unknown system} ${version}; package lists exist for Debian 12 and Ubuntu 24.04 only. Install the counterparts of
the packages in third_party/packages-debian12.txt by hand, then use --no-install with the other scripts."
  fi
  printf '%s' "$list"
}

# Runs a command as root, keeping apt from asking questions.
as_root() {
  if [[ $(id -u) -eq 0 ]]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif command -v sudo >/dev/null; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    fail "neither root nor sudo; run as root: $*"
  fi
}

# Runs apt-get quietly; what it said is shown only when it failed.
quiet_apt() {
  local output
  if ! output=$(as_root apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" 2>&1); then
    printf '%s\n' "$output" >&2
    return 1
  fi
}

install_packages() {
  local -a missing=()
  local package present
  present=" $(dpkg-query -W -f='${db:Status-Status}=${Package} ' "$@" 2>/dev/null || true)"
  for package in "$@"; do
    [[ $present == *" installed=${package} "* ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -eq 0 ]] && return 0
  printf 'installing %s\n' "${missing[*]}"
  # The package index is refreshed only when it does not know the packages: that takes the longest.
  if ! quiet_apt install -y --no-install-recommends "${missing[@]}" 2>/dev/null; then
    quiet_apt update || fail "apt-get update failed; see above"
    quiet_apt install -y --no-install-recommends "${missing[@]}" || fail "apt-get install failed; see above"
  fi
}

# The dictionary package wants a dictionary server, which nobody needs here: its file is unpacked, not installed.
fetch_corpus() {
  [[ -f $installed_corpus || -f $fetched_corpus ]] && return 0
  printf 'fetching the package dict-gcide for its text\n'
  mkdir -p data/corpus
  local folder
  folder=$(mktemp -d)
  # Expanded now: the local variable is gone when the trap runs.
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  chmod 755 "$folder"
  (
    cd "$folder"
    apt-get -qq download dict-gcide >/dev/null 2>&1 || {
      quiet_apt update
      apt-get -qq download dict-gcide
    }
    dpkg-deb -x dict-gcide_*.deb .
  ) || fail "cannot fetch dict-gcide; name a text file of your own with scripts/quickstart.sh --corpus FILE"
  cp "$folder$installed_corpus" "$fetched_corpus.part"
  mv "$fetched_corpus.part" "$fetched_corpus"
}

# The headers of cuDNN's front end, for builds with CUDA. Without them the build works, with our own attention alone.
fetch_cudnn_frontend() {
  command -v nvcc >/dev/null || [[ -x ${CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]] || return 0
  [[ -f $cudnn_headers/version && $(<"$cudnn_headers/version") == "$cudnn_frontend" ]] && return 0
  printf 'fetching %s for its headers\n' "$cudnn_frontend"
  local folder
  folder=$(mktemp -d)
  if python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder" \
    "$cudnn_frontend" >"$folder/log" 2>&1 && python3 -m zipfile -e "$folder"/*.whl "$folder/wheel" 2>>"$folder/log"; then
    rm -rf "$cudnn_headers"
    mkdir -p "$cudnn_headers"
    cp -r "$folder/wheel/include" "$cudnn_headers/"
    cp "$folder"/wheel/*.dist-info/licenses/LICENSE* "$cudnn_headers/"
    printf '%s' "$cudnn_frontend" >"$cudnn_headers/version"
  else
    cat "$folder/log" >&2
    printf 'install_deps.sh: no headers of %s (is python3-pip installed?): the build will use our own attention\n' \
      "$cudnn_frontend" >&2
  fi
  rm -rf "$folder"
}

wanted='build'
corpus=false
for argument in "$@"; do
  case $argument in
    --tests) wanted='build|tests' ;;
    --corpus) corpus=true ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown argument '$argument'; known: --tests, --corpus, --help" 2 ;;
  esac
done

list=$(package_list)
mapfile -t packages < <(awk -v wanted="^(${wanted})\$" '$1 ~ wanted { print $2 }' "$list")
[[ ${#packages[@]} -gt 0 ]] || fail "$list lists no packages"
install_packages "${packages[@]}"
if $corpus; then fetch_corpus; fi
fetch_cudnn_frontend
