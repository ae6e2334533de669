"""Observers set a clip range from data or weights: one observer a file."""

from qat.observers.base import GridSpec, Observer

__all__ = ["GridSpec", "Observer"]
