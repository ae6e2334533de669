"""Fake quantizers: modules that round a tensor onto its grid and pass gradients straight through."""

from qat.fake_quant.base import FakeQuantizeConfig, FakeQuantizer

__all__ = ["FakeQuantizeConfig", "FakeQuantizer"]
