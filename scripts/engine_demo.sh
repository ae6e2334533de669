#!/usr/bin/env bash
# Trains the demo and has every engine load, score and generate from its exports: INT4 weights in every format, and W8A8 in
# compressed-tensors, which vLLM computes with integer products. scripts/engines.sh sets the engines up; one that is
# absent is named. Exit code 1: an export is not what was trained, or an engine that is there failed.
#
#     scripts/engine_demo.sh [folder]     # default: a new one among the temporary files
#
# The W8A8 model is trained for 50 steps instead of 300: it is there for the engines, not for its accuracy, so it promises
# none.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$(mktemp -d "${TMPDIR:-/tmp}/qat-engine-demo.XXXXXX")}
"$root/scripts/setup.sh"

status=0
run() { # name of the run folder, overrides
    name=$1
    shift
    "$root/.venv/bin/qat" run recipe=demo/w4a16_lsq run_dir="$folder/$name" "$@" || status=1
}

# One dequantized file for every engine: in the dialect that the oldest reads, and in float16, the rest of the model too.
run w4a16 rest_dtype=float16 export.dequantized.dialect=transformers_4_51 \
    'export=[compressed_tensors,gguf,onnx,torchao,dequantized,gptq]' \
    'engine=[transformers,torchao,onnxruntime,llama_cpp,vllm,transformers_4_51,gptqmodel]'
run w8a8 scheme=w8a8 trainer.max_steps=50 trainer.val_every=25 '~expect.qat' \
    export=compressed_tensors 'engine=[transformers,vllm]'

echo "What every engine computed is in $folder/w4a16/metrics.json and $folder/w8a8/metrics.json, under exports"
exit "$status"
