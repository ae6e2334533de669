"""Scripts that run in environments of their own: they import numpy, torch and their library, but not qat."""
