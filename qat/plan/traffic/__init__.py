"""Who asks, when, and how much: one kind of traffic a file."""
