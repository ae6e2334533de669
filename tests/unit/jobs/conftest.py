from __future__ import annotations

import pytest
from support import InProcess

from qat.jobs.stages import exports


@pytest.fixture(autouse=True, scope="module")
def _engines_in_this_process() -> object:
    """Worker processes are tested with the engines and in the integration tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "Isolated", InProcess)
        yield
