"""`python -m lakebed.worker` is `lakebed-worker`."""

import sys

from lakebed.worker.main import main

sys.exit(main())
