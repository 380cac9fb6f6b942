"""`python -m wasmlet`, and what the installed `wasmlet` runs.

Until a command's modules are there, Ctrl-C ends the process as it ends any other: as an exception in the midst of an
import it would be a traceback, or pass unheard (Python gives up exceptions in callbacks, and imports have some).
"""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from wasmlet.cli import main

if __name__ == "__main__":
    sys.exit(main())
