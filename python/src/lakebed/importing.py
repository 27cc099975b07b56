"""Imports files and folders by the binary's `import`, which reads media, bags and tables."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakebed.binary import OF_THE_PACKAGE, find_binary
from lakebed.errors import Internal, InvalidArgument

if TYPE_CHECKING:
    from lakebed.connection import Connection

WRONG_USAGE = 2


def import_paths(
    paths: str | Path | Sequence[str | Path],
    table: str | None = None,
    *options: str,
    connection: "Connection | None" = None,
    binary: str | Path | None = None,
) -> dict[str, Any]:
    """Imports files and folders.

    Args:
        table: where files and rows go. Recordings need none, but `--into` among the options.
        options: further words of the command line, such as `--manifest`, `labels.csv`.
        connection: where to; what `lakebed.connect()` gives without one.
        binary: which binary to run; `LAKEBED_BIN`, else `lakebed` on the PATH.

    Returns:
        The summary that the import prints.

    Raises:
        InvalidArgument: the command line was not understood.
        Internal: the import failed; the message is its own.
    """
    if connection is None:
        from lakebed.connection import connect

        connection = connect()
    target = connection.target
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    environment = {k: v for k, v in os.environ.items() if k not in OF_THE_PACKAGE}
    environment |= {"LAKEBED_URL": target.url, "LAKEBED_DATABASE": target.database}
    key = connection._http.key()
    if key is not None:
        # By the environment, because a command line can be read by everybody on the machine.
        environment["LAKEBED_API_KEY"] = key
    ca = ["--ca-file", target.ca_file] if target.ca_file else []
    command = [
        *(str(find_binary(binary)), "import", *ca),
        *(["--table", table] if table is not None else []),
        *("--format", "json", *options),
        *("--", *(str(Path(path).expanduser()) for path in given)),
    ]
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        kind = InvalidArgument if done.returncode == WRONG_USAGE else Internal
        raise kind(f"import ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    try:
        summary = json.loads(done.stdout)
    except ValueError as error:
        raise Internal("import printed no JSON") from error
    return summary if isinstance(summary, dict) else {"imported": summary}
