"""`python -m sentinel_sync`: the command line."""

import sys

from sentinel_sync.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
