from __future__ import annotations

import pytest

from qat.deploy.base import Target


def test_a_target_implements_all_four_steps():
    class Half(Target):
        name = "half"

        def prepare(self, source, folder):
            pass

    with pytest.raises(TypeError, match="delete.*preflight.*push"):
        Half()
