# Sourced by ./quickstart, ./test and .ci/run: the packages Fiddler needs, and how a step is run and shown.
# Messages go to stderr, so that stdout carries only what the caller's last command prints.
# shellcheck shell=bash disable=SC2034

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The one list of packages; the names are the same on Debian 12 and Ubuntu 24.04.
build_packages=(cmake ninja-build ccache g++ pkg-config
  libfmt-dev nlohmann-json3-dev libcli11-dev libhwloc-dev libpcre2-dev libutf8proc-dev libgtest-dev libboost-context-dev)
test_packages=(python3)
# clang-format by version: another one formats otherwise.
ci_packages=(git clang libclang-rt-dev clang-format-14 clang-tidy)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Some locales write EPOCHREALTIME with a comma.
seconds_since() {
  LC_ALL=C awk -v from="${1/,/.}" -v to="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.1f s\n", to - from }'
}

# step NAME COMMAND...: runs the command quietly and says how long it took; shows its output only if it fails.
step() {
  local name=$1 started=$EPOCHREALTIME log
  shift
  log=$(mktemp "${TMPDIR:-/tmp}/fiddler-step.XXXXXX")
  printf '%s ... ' "$name" >&2
  if "$@" >"$log" 2>&1 </dev/null; then
    seconds_since "$started" >&2
    rm -f "$log"
  else
    local status=$?
    echo "failed after $(seconds_since "$started")" >&2
    cat "$log" >&2
    rm -f "$log"
    fail "$name failed (exit $status): $*"
  fi
}

# install_packages PACKAGE...: installs what dpkg does not list as installed; does nothing if all is there.
install_packages() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    fail "needs apt-get (Debian, Ubuntu); elsewhere install the equivalents of: $*;" \
      "then: cmake --preset release && cmake --build build/release"
  fi
  local installed missing=() package
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qx "installed $package" <<<"$installed" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local as_root=()
  if ((EUID != 0)); then
    # Without a terminal sudo cannot ask for a password.
    if ! command -v sudo >/dev/null || ! { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
      fail "needs root or sudo to install: apt-get install ${missing[*]}"
    fi
    sudo -v
    as_root=(sudo)
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  step "Updating the package lists" "${apt[@]}" update
  step "Installing ${missing[*]}" "${apt[@]}" install --no-install-recommends "${missing[@]}"
}

# build PRESET [cmake --build arguments...]: configures and builds one preset of CMakePresets.json.
# In CI a warning is an error; on a user's machine, with a compiler we have not seen, it is not.
build() {
  local preset=$1
  shift
  step "Configuring build/$preset" cmake --preset "$preset" ${CI:+-DCMAKE_COMPILE_WARNING_AS_ERROR=ON}
  if [[ -t 2 ]]; then  # ninja shows its progress in one line
    local started=$EPOCHREALTIME
    cmake --build "build/$preset" "$@" >&2 </dev/null || fail "building build/$preset failed"
    echo "Building build/$preset ... $(seconds_since "$started")" >&2
  else
    step "Building build/$preset" cmake --build "build/$preset" "$@"
  fi
}

# run_tests PRESET [ctest arguments...]: what ctest prints is also kept in build/PRESET/ctest.log.
run_tests() {
  local preset=$1
  shift
  ctest --preset "$preset" --parallel 2 --output-log "build/$preset/ctest.log" "$@"
}
