"""`python -m sagips_kit` is the command `sagips`."""

import sys

from .cli import main

if __name__ == "__main__":  # and not when a spec names this module
    sys.exit(main())
