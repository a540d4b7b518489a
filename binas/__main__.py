"""`python -m binas` is the command `binas`."""

import sys

from binas.cli import main

sys.exit(main())
