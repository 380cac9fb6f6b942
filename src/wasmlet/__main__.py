"""`python -m wasmlet`."""

import sys

from wasmlet.cli import main

if __name__ == "__main__":
    sys.exit(main())
