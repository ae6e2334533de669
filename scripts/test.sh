#!/usr/bin/env bash
# Sets up when needed, then runs the tests. Arguments go to pytest, such as tests/unit -k schedule.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
