"""`python -m binas` is the command `binas`."""

import sys

from binas.cli.main import main

sys.exit(main())
