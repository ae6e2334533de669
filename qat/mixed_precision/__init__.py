"""Mixed precision: how much damage each layer takes at each width, and which widths are best under a budget."""
