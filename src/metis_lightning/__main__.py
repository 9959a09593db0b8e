"""Entry of `python -m metis_lightning`."""

import sys

from metis_lightning.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
