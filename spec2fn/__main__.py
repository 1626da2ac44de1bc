"""Allow ``python -m spec2fn``."""

import sys

from spec2fn.cli import main

sys.exit(main())
