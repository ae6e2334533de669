"""AWS as the tests see it."""

from __future__ import annotations

from aws_world import credentials, fake, moto_url, world

__all__ = ["credentials", "fake", "moto_url", "world"]
