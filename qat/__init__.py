"""Quantization-aware training for transformers, from a recipe to a checkpoint that an engine loads."""

__version__ = "0.1.0"
