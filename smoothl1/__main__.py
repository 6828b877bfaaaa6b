"""``python -m smoothl1``."""

import sys

from .cli import main

sys.exit(main())
