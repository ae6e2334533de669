"""Serving an export: an engine's own server, and in front of it a gateway that speaks a host's dialect."""
