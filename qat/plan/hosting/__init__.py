"""Where the model runs, with dated prices and speeds: one hosting a file."""
