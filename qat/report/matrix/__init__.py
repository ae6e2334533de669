"""The matrix of engines: every scheme in every format in every engine, on a terminal and in ``docs/engines.md``."""
