"""`python -m sagips_kit` is the command `sagips`."""

import sys

from .cli import main

sys.exit(main())
