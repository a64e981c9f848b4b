"""`python -m sagips_kit` runs the command `sagips`."""

import sys

from .cli import main

if __name__ == "__main__":  # but not when a spec names this module
    sys.exit(main())
