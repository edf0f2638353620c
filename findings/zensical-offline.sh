#!/bin/sh
# zensical 0.0.73 (the successor of mkdocs-material): a site built with its plugin `offline`.
#
# One would guess: the plugin makes a site that needs no network, search included: that is what it is for.
# What happens: each page loads one script from a server on the internet, the stand-in for workers, which browsers do not
# start from disk. Without a network the pages read well and search alone says that it is unavailable. A file of one's own
# under `extra.polyfills` whose path holds the script's name, `iframe-worker`, takes its place.
# Who meets it: whoever gives documentation away on a disk, or promises that reading it calls nobody.
#
# Needs python3 (3.11 or newer) with pip.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check zensical==0.0.73
cd "$folder"
mkdir -p docs/iframe-worker
printf '# Hello\n\nA page.\n' > docs/index.md
: > docs/iframe-worker/index.js

build() { # NAME MORE
    printf '[project]\nsite_name = "hello"\n%s\n[project.theme]\nfont = false\n[project.plugins.offline]\n[project.plugins.search]\n' \
        "$2" > zensical.toml
    "$folder/venv/bin/zensical" build --clean > log 2>&1 || { cat log; exit 1; }
    printf '%-22s %s scripts from elsewhere\n' "$1" "$(grep -o '<script[^>]*src="\{0,1\}https:' site/index.html | wc -l)"
}
seen=$(
    build 'plugin offline' ''
    build 'and a file at hand' '[[project.extra.polyfills]]
path = "iframe-worker/index.js"'
)
expected='plugin offline         1 scripts from elsewhere
and a file at hand     0 scripts from elsewhere'
echo "$seen"
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
