"""``python -m univfast``: the command line."""

import sys

from univfast.cli import main

sys.exit(main())
