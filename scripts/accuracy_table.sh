#!/usr/bin/env bash
# Makes docs/accuracy/: every model and width by every method, each table by `qat compare`. Hours on two cores, minutes on
# a GPU. A second call goes on where the first one was stopped: finished rows and seeds are kept in outputs/accuracy.
#
#     scripts/accuracy_table.sh [recipe ...] [key=value ...]
#
# Without a recipe all of the grid. Keys go to every `qat compare`, such as rows=[rtn,recipe] seeds=[0] trainer.device=gpu.
# The models besides the demo are looked for in ../shared/data or QAT_SHARED_DATA, and left out where they are not there.
# Works from any folder, with bash 3.2 (macOS) too.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
data=${QAT_SHARED_DATA:-$root/../shared/data}
grid="
    demo/w4a16_lsq demo/w3a16_lsq demo/w2a16_lsq demo/w4a8_lsq demo/w8a8_lsq
    stories260k/w4a16_lsq stories260k/w3a16_lsq stories260k/w2a16_lsq stories260k/w4a8_lsq stories260k/w8a8_lsq
    babyllama_tok105/w4a16_lsq babyllama_tok105/w3a16_lsq babyllama_tok105/w2a16_lsq babyllama_tok105/w4a8_lsq
    babyllama_tok105/w8a8_lsq
    novels_llama/w2a16_g32_lsq novels_llama/w2a16_lsq
"
recipes=
words=()
for word in "$@"; do
    case $word in
    -*)
        echo "usage: scripts/accuracy_table.sh [recipe ...] [key=value ...]" >&2
        exit 2
        ;;
    *=*) words+=("$word") ;;
    *) recipes="$recipes $word" ;;
    esac
done

failed=
for recipe in ${recipes:-$grid}; do
    case $recipe in
    demo/*) ;;
    *)
        if [ ! -d "$data" ]; then
            echo "left out: $recipe (there is no folder $data)"
            continue
        fi
        ;;
    esac
    folder=outputs/accuracy/$recipe
    start="recipe=$recipe run_dir=$folder"
    if [ -d "$folder/.hydra" ]; then
        start="resume=$folder"
    fi
    echo "== $recipe"
    # shellcheck disable=SC2086  # two words
    if .venv/bin/python -m qat.cli compare $start ${words[@]+"${words[@]}"}; then
        mkdir -p "docs/accuracy/$recipe"
        cp "$folder/compare.json" "$folder/table.md" "docs/accuracy/$recipe/"
    else
        failed="$failed $recipe"
    fi
done
.venv/bin/python scripts/accuracy_index.py docs/accuracy
if [ -n "$failed" ]; then
    echo "failed:$failed (the error of each ends its part above); the same command goes on from there" >&2
    exit 1
fi
