"""``python -m mlaas4hep_serving``: the server."""

import sys

from mlaas4hep_serving.cli import main

sys.exit(main())
