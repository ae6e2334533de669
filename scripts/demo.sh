#!/usr/bin/env bash
# Sets up when needed, then runs the demo: train, quantize, export and evaluate the model that ships with qat.
# Arguments are overrides, such as trainer.max_steps=50.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/scripts/setup.sh"
exec "$root/.venv/bin/qat" run recipe=demo/w4a16_lsq "$@"
