#!/usr/bin/env bash
# Trains the demo twice and has every engine load, score and generate from its exports: INT4 weights in every format, and
# W8A8 in compressed-tensors, which vLLM computes with integer products. scripts/engines.sh sets the engines up; one that
# is absent is named. Minutes. Exit code 1: an export is not what was trained, or an engine that is there failed.
#
#     scripts/engine_demo.sh [folder]     # default: a new one among the temporary files
#
# The W8A8 model is trained for 50 steps instead of 300: it is there for the engines, not for its accuracy, so it promises
# none. Works from any folder, with bash 3.2 (macOS) too.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${1:-} in
-*)
    echo "usage: scripts/engine_demo.sh [folder]" >&2
    exit 2
    ;;
esac
"$root/scripts/setup.sh"
folder=${1:-$(mktemp -d "${TMPDIR:-/tmp}/qat-engine-demo.XXXXXX")}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

failed=
run() { # name of the run folder, overrides
    name=$1
    shift
    "$root/.venv/bin/qat" run recipe=demo/w4a16_lsq run_dir="$folder/$name" "$@" || failed="$failed $name"
}

echo "1 of 2: INT4 weights, every format and engine, in $folder/w4a16"
# One dequantized file for every engine: in the dialect that the oldest reads, and in float16, the rest of the model too.
run w4a16 rest_dtype=float16 export.dequantized.dialect=transformers_4_51 \
    'export=[compressed_tensors,gguf,onnx,torchao,dequantized,gptq]' \
    'engine=[transformers,torchao,onnxruntime,llama_cpp,vllm,transformers_4_51,gptqmodel]'
echo
echo "2 of 2: W8A8 in transformers and vLLM, in $folder/w8a8"
run w8a8 scheme=w8a8 trainer.max_steps=50 trainer.val_every=25 '~expect.qat' \
    export=compressed_tensors 'engine=[transformers,vllm]'

echo
for name in w4a16 w8a8; do
    if [ -f "$folder/$name/metrics.json" ]; then
        echo "$name: the exports are in $folder/$name/exports, what every engine computed in $folder/$name/metrics.json"
    fi
done
if [ -n "$failed" ]; then
    echo "failed:$failed (the error of each ends its part above); once it is put right: scripts/engine_demo.sh <another folder>" >&2
    exit 1
fi
