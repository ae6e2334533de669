"""The hosting advisor: what a day of traffic costs on each hosting, and how long its users wait."""
