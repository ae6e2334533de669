#!/usr/bin/env bash
# Makes the virtual environments of the engines that do not go with qat's own packages, runs the whole matrix of schemes,
# formats and engines (scripts/engine_matrix.py, which writes docs/engines.md), and lets the engines generate from what
# the demo trains (scripts/engine_demo.sh). With names it only makes those environments. One that cannot be made stops
# nothing else: it is named, and the exit code is 1.
#
#     scripts/engines.sh [llama_cpp] [vllm] [transformers_4_51] [gptqmodel]
#
# They lie in $QAT_ENGINES, by default ~/.cache/qat/engines, and take about 11 GB together. Does nothing (fast) for one
# that is done already. Where packages come from is pip's own configuration: on Linux,
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gives torch without its GPU libraries, as vLLM's wheel wants
# it. The matrix takes an hour or more; its progress is a line for each scheme and format. Works from any folder, with bash 3.2
# (macOS) too.
set -euo pipefail
folder=${QAT_ENGINES:-$HOME/.cache/qat/engines}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/engines"

engines="llama_cpp vllm transformers_4_51 gptqmodel"
known="$engines auto_round llmcompressor"
export PIP_DISABLE_PIP_VERSION_CHECK=1
[ -t 1 ] || export PIP_QUIET=1 # nobody watches the downloads
export BUILD_CUDA_EXT=0 # of GPTQModel: it runs on the CPU here

# shellcheck disable=SC2086 # the names are words; "$@" of no words is an error in some bash 3.2 under -u
for name in ${*:-}; do
    case " $known " in
    *" $name "*) ;;
    *)
        echo "there is no environment '$name'; there are: $known" >&2
        echo "usage: scripts/engines.sh [name ...]" >&2
        exit 2
        ;;
    esac
done

if [ $# -eq 0 ]; then # first, since it fails fast and the matrix needs it
    ../setup.sh
fi
python=
for candidate in ../../.venv/bin/python python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "needs Python 3.11 or later with its venv module; run scripts/setup.sh, which says how to get one" >&2
    exit 2
fi

module_of() { # what a finished environment can import
    case $1 in
    transformers_4_51) echo transformers ;;
    *) echo "$1" ;;
    esac
}

install() {
    name=$1
    environment=$folder/$name
    lock=$name.lock
    stamp=$environment/.installed
    # The folder is in it since a virtual environment cannot be moved.
    wanted="$environment $(cksum <"$lock")"
    if [ -x "$environment/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        echo "$name: ready in $environment" >&2
        return
    fi
    echo "$name: making $environment with $("$python" --version) (minutes)" >&2
    rm -f "$stamp"
    "$python" -m venv --clear "$environment"
    # torch first, with the GPU libraries that it may need; then the lock as it is: it is complete, and it holds
    # versions that some package's own bounds would not let in.
    if torch=$(grep '^torch==' "$lock"); then
        "$environment/bin/python" -m pip install --constraint "$lock" "$torch"
    fi
    "$environment/bin/python" -m pip install --no-deps --requirement "$lock"
    "$environment/bin/python" -c "import $(module_of "$name")" >/dev/null
    printf '%s\n' "$wanted" >"$stamp"
    echo "$name: ready in $environment" >&2
}

failed=
status=0
# shellcheck disable=SC2086
for name in ${*:-$engines}; do
    # Not as a condition: there bash ignores -e inside the function too.
    set +e
    (
        set -e
        install "$name"
    )
    made=$?
    set -e
    if [ "$made" -ne 0 ]; then
        failed="$failed $name"
        status=1
        echo "$name: could not be made; the error is above" >&2
    fi
done

if [ $# -eq 0 ]; then
    export QAT_ENGINES=$folder
    echo "The matrix of engines:" >&2
    ../../.venv/bin/python ../engine_matrix.py || status=1
    echo "The demo in every engine:" >&2
    ../engine_demo.sh || status=1
fi
if [ -n "$failed" ]; then
    echo "could not be made:$failed; see the error of one again with: scripts/engines.sh <name>" >&2
fi
exit "$status"
