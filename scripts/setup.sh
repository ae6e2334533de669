#!/usr/bin/env bash
# Makes .venv, installs the locked packages and qat itself. Does nothing (fast) when that is done already.
# Where packages come from is pip's own configuration; works with bash 3.2 (macOS).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What an installation depends on. The folder is in it since a virtual environment cannot be moved.
wanted="$PWD $(cat requirements.lock pyproject.toml | cksum)"
stamp=.venv/.installed

if [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

usable() { # Python 3.11 or later that can make virtual environments
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if ! { [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    python=
    for candidate in python3 python3.13 python3.12 python3.11; do
        if usable "$candidate"; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "qat needs Python 3.11 or later with its venv module, and found none among python3, python3.13," \
            "python3.12 and python3.11; install one (Debian: apt install python3 python3-venv, macOS:" \
            "brew install python@3.13)" >&2
        exit 2
    fi
    echo "Making .venv with $("$python" --version)" >&2
    "$python" -m venv --clear .venv
fi

# Removed first, so that an installation that breaks off is taken up again next time.
rm -f "$stamp"
echo "Installing the packages of requirements.lock (minutes the first time)" >&2
export PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/python -m pip install --quiet --requirement requirements.lock
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
printf '%s\n' "$wanted" >"$stamp"
