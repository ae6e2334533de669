"""Bring a finished run to a host: write what it takes, check it against the host's rules, push it, remove it again."""
