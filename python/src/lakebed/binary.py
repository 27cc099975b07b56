"""Where the server's binary is: this package does not bring it."""

import os
import shutil
from pathlib import Path

from lakebed.errors import NotFound

# Variables of this package that the server does not know; it refuses those.
OF_THE_PACKAGE = {"LAKEBED_BIN", "LAKEBED_CACHE", "LAKEBED_SOAK"}


def find_binary(given: str | Path | None = None) -> Path:
    """The binary that is given, `LAKEBED_BIN`, or `lakebed` on the PATH.

    Raises:
        NotFound: there is none.
    """
    named = given or os.environ.get("LAKEBED_BIN")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise NotFound(f"there is no lakebed binary at {path}")
        return path
    found = shutil.which("lakebed")
    if found is None:
        raise NotFound("no lakebed binary is on the PATH; name one by LAKEBED_BIN or an argument")
    return Path(found)
