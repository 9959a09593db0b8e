#!/usr/bin/env bash
# What a GPU does with this code, in one run of six minutes: see docs/gpu.md.
# Needs a Python with torch; other packages are taken from bench/wheels/, if that folder is there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
path=$here/../src

wheels=("$here"/wheels/*.whl)
if [ -e "${wheels[0]}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    # One that does not fit this Python or this machine must not keep the others from being installed.
    for wheel in "${wheels[@]}"; do
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheel" ||
            echo "left out: $(basename "$wheel")" >&2
    done
    path=$path:$site
fi

PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 "$python" "$here/gpu.py" "$@"
