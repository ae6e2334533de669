"""The phases, one a file; ``configs/phase/<name>.yaml`` makes each one known."""
