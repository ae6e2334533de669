"""Groq: what its hosts are documented to take, a LoRA adapter and a static graph; and its API in front of an engine."""
