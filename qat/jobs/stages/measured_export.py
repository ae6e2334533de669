"""The process that ``qat bench export`` measures: one streamed export, and nothing before it in its memory.

``python -m qat.jobs.stages.measured_export <model folder> <scheme> <new folder>`` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from qat.engines.workers.worker_protocol import peak_memory
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.pack import pack_codes
from qat.observers.minmax import MinMax
from qat.ptq.rtn import RTN
from qat.ptq.stream import stream
from qat.scheme import preset


def main(model: Path, scheme: str, target: Path) -> dict[str, Any]:
    """Export ``model`` in ``scheme`` to the new folder ``target``, down to the disk, and say what it took."""
    before = peak_memory()
    wall, processor = time.perf_counter(), time.process_time()
    checkpoint = stream(model, preset(scheme), RTN(MinMax()), torch.bfloat16)
    CompressedTensorsExporter(max_shard_size="1GB").write(checkpoint, target)
    os.sync()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "seconds": wall,
        "processor_seconds": processor,
        "peak_memory_bytes": peak_memory(),
        "peak_memory_bytes_before": before,
        "packing_bytes_per_second": packing_speed(),
    }


def packing_speed() -> float:
    """Bytes of 16-bit weights whose INT4 codes one thread packs a second: the best of five."""
    codes = torch.randint(-8, 8, (14336, 4096), dtype=torch.int8)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        pack_codes(codes, 4)
        seconds.append(time.process_time() - start)
    return 2 * codes.numel() / min(seconds)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
