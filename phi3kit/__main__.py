"""The door of the command line: `python -m phi3kit`, and the command `phi3kit`."""

import sys

from phi3kit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
