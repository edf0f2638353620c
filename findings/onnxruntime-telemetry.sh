#!/bin/sh
# onnxruntime 1.32.0 on Linux (seen in 1.29 to 1.32): which switch stops its telemetry.
#
# One would guess: onnxruntime.disable_telemetry_events(), called right after the import, stops it; and a job on a CI
# machine shows what a user's machine does.
# What happens: the call stops neither the files (an id and an event store, written by the import) nor the network calls
# that begin some ten seconds later; ORT_DISABLE_TELEMETRY=1 before the import stops both. Where the variable CI is set
# there is neither, so that a CI job cannot see the difference.
# Who meets it: everybody who promises that an app keeps to itself, and tests that promise in CI.
#
# Needs python3 (3.11 or newer) with pip, strace, and user namespaces: the processes that are watched have a network of
# their own without any way out, so nothing is sent.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps onnxruntime==1.32.0 numpy==2.4.6

watch() { # NAME PYTHON [VARIABLE=VALUE...]
    name=$1 code=$2
    shift 2
    mkdir "$folder/$name"
    env -i PATH="$PATH" HOME="$folder/$name" "$@" unshare --user --map-root-user --net \
        strace -f -qq -e trace=%network -o "$folder/$name.calls" \
        "$folder/venv/bin/python" -c "import time, onnxruntime; $code; time.sleep(20)"
}
says() { # NAME
    files=$(find "$folder/$1" -type f | wc -l)
    if grep -q '(' "$folder/$1.calls"; then network=called; else network=untouched; fi
    printf '%-26s files %s, network %s\n' "$1" "$files" "$network"
}

watch nothing pass &
watch disable_telemetry_events "onnxruntime.disable_telemetry_events()" &
watch ORT_DISABLE_TELEMETRY=1 pass ORT_DISABLE_TELEMETRY=1 &
watch CI=1 pass CI=1 &
wait

seen=$(for name in nothing disable_telemetry_events ORT_DISABLE_TELEMETRY=1 CI=1; do says "$name"; done)
expected='nothing                    files 2, network called
disable_telemetry_events   files 2, network called
ORT_DISABLE_TELEMETRY=1    files 0, network untouched
CI=1                       files 0, network untouched'
echo "$seen"
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
