"""``python -m qat.cli`` is ``qat``."""

import sys

from qat.cli.main import main

sys.exit(main())
