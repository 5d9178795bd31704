#!/usr/bin/env bash
# Makes the environment: scripts/setup.sh [folder]. Installs only where the folder lacks what requirements.txt says.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${1:-.venv}"

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

if [ ! -x "$venv/bin/python" ] || ! fits "$venv/bin/python"; then
    found=""
    for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.10; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && fits "$candidate"; then found="$candidate"; break; fi
    done
    if [ -z "$found" ]; then
        echo "setup: no Python 3.10, 3.11 or 3.12 found ($(python3 --version 2>&1 || echo 'no python3'))." >&2
        echo "       Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv), or say PYTHON=/path/to/python3.12" >&2
        exit 2
    fi
    if ! "$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version="$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        echo "setup: $found cannot make virtual environments." >&2
        echo "       Debian, Ubuntu: sudo apt-get install python$version-venv" >&2
        exit 2
    fi
    echo "setup: environment in $venv with $("$found" --version)"
    "$found" -m venv --clear "$venv"
fi

wanted="$(cat requirements.txt pyproject.toml | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$venv/.installed" 2>/dev/null || true)" = "$wanted" ]; then
    touch "$venv/.installed"
    exit 0
fi
started=$SECONDS
uv="$(sed -nE 's/^(uv==[^ ;]+).*/\1/p' requirements.txt)"
if [ ! -x "$venv/bin/uv" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${uv:-uv}"
fi
export VIRTUAL_ENV="$PWD/$venv"
case "$venv" in /*) export VIRTUAL_ENV="$venv" ;; esac
"$venv/bin/uv" pip install --quiet -r requirements.txt
"$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation -e .
# A night is dozens of processes. Where Python keeps no bytecode by itself, each would compile anew all that it imports, which is
# half of a short step's time. Templates among the packages are no Python, and compileall says so by its exit code.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
    "$venv/bin/python" -m compileall -qq -j 0 "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
fi
echo "$wanted" > "$venv/.installed"
echo "setup: ready in $((SECONDS - started)) s"
