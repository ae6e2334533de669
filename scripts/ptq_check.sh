#!/usr/bin/env bash
# Compares qat's GPTQ and AWQ with llmcompressor's (scripts/ptq_check.py, which writes docs/accuracy/ptq_check.json and
# .md). Makes llmcompressor's environment and the one of this checkout first; fast for what is done already. Words go to
# the Python script.
#
#     scripts/ptq_check.sh [--models stories260K] [--again ours] ...
#
# Needs the models and texts of QAT_SHARED_DATA, which is ../shared/data beside the checkout if it is not set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export QAT_SHARED_DATA=${QAT_SHARED_DATA:-$PWD/../shared/data}
if [ ! -d "$QAT_SHARED_DATA/models" ]; then
    echo "there are no models in $QAT_SHARED_DATA; set QAT_SHARED_DATA to the folder that has models/ and text/" >&2
    exit 2
fi
scripts/setup.sh
scripts/engines.sh llmcompressor
exec .venv/bin/python scripts/ptq_check.py "$@"
