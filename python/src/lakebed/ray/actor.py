"""What runs on the cluster: an actor that keeps one `lakebed-worker` alive.

The worker is a process of its own and not a thread of the actor. pyarrow and Ray each carry a gRPC,
and two of them in one process have crashed; and a worker ends its process at once when it must.
When the actor is killed, Ray kills what it started; where it does not, the worker leaves by itself,
see `lakebed.worker.supervisor`.
"""

import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lakebed._version import __version__
from lakebed.worker.supervisor import LEAVE_S_MAX, Supervisor


class WorkerActor:
    """One worker. Ray starts it again elsewhere when it is lost."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], version: str
    ) -> None:
        """
        Args:
            arguments: of `lakebed-worker`.
            environment: what its process has beyond this one's.
            version: of the package where it was asked for.
        """
        if version != __version__:
            raise RuntimeError(
                f"lakebed is {__version__} on this machine and {version} where workers are asked "
                "for; they have to be the same"
            )
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        self._supervisor = Supervisor({name: arguments}, {**os.environ, **environment})
        self._code: int | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._code = self._supervisor.run()

    def state(self) -> dict[str, Any]:
        """`pid` of the worker, `starts` so far, and `code` once it was given up."""
        [child] = self._supervisor.states()
        return {"pid": child.pid, "starts": child.starts, "code": self._code}

    def stop(self) -> None:
        """Returns when the worker has given back what it held, and ended."""
        self._supervisor.stop()
        self._thread.join(LEAVE_S_MAX)
