"""``mlaas4hep-predict``, under the name that it has beside the server."""

import sys

from mlaas4hep_client.files import read_events
from mlaas4hep_client.predict import lines, main

__all__ = ["lines", "main", "read_events"]

if __name__ == "__main__":
    sys.exit(main())
