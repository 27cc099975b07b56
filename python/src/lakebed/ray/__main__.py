"""`python -m lakebed.ray`: workers on a Ray cluster, as a command.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 when it cannot work, 2 for wrong usage. Logs on standard
error.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Sequence

from lakebed._target import DATABASE_DEFAULT
from lakebed.errors import InvalidArgument, LakebedError

log = logging.getLogger("lakebed.ray")

WAKE_S = 0.2
CANNOT_WORK = 1
WRONG_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="python -m lakebed.ray",
        description="Runs lakebed-worker on a Ray cluster, as many as tasks wait for.",
        epilog="What follows `--` is given to every lakebed-worker.",
        allow_abbrev=False,
    )
    made.add_argument("--url", help="the server's HTTP URL [LAKEBED_URL]")
    made.add_argument("--api-key", help="a key of the role read or above [LAKEBED_API_KEY]")
    made.add_argument("--num-workers", type=int, required=True, help="at most")
    made.add_argument("--min-workers", type=int, default=1, help="[default: %(default)s]")
    made.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="NAME=AMOUNT",
        help="of each worker, such as CPU=4 or GPU=1; may be repeated [default: CPU=1]",
    )
    made.add_argument(
        "--database",
        action="append",
        metavar="NAME",
        help=f"whose jobs are looked at; may be repeated [default: {DATABASE_DEFAULT}]",
    )
    made.add_argument("--slots", type=int, default=3, help="of a worker [default: %(default)s]")
    made.add_argument(
        "--idle-seconds",
        type=float,
        default=30.0,
        help="before a worker with nothing to do is let go [default: %(default)g]",
    )
    made.add_argument("--ca-file", help="certificates in PEM to trust instead of the system's")
    made.add_argument("--ray-address", help="of the cluster [RAY_ADDRESS]")
    made.add_argument("worker_flags", nargs="*", help=argparse.SUPPRESS)
    return made


def _resources(given: Sequence[str]) -> dict[str, float]:
    """
    Raises:
        InvalidArgument: one is not of the form `NAME=AMOUNT`.
    """
    found: dict[str, float] = {}
    for word in given:
        name, _, amount = word.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            text = f"--resource is `{word}`; it looks like GPU=1"
            raise InvalidArgument(text) from None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs workers until it is told to stop; the exit code."""
    given = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        import ray

        from lakebed.ray.workers import attach
    except ImportError as error:
        log.error("%s; pip install 'lakebed[worker,ray]'", error)
        return CANNOT_WORK
    signals: list[int] = []
    try:
        resources = _resources(given.resource)
        ray.init(address=given.ray_address, logging_level=logging.WARNING)
        # After Ray, whose own handlers end the process before workers gave back what they hold.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: signals.append(number))
        workers = attach(
            given.url,
            num_workers=given.num_workers,
            min_workers=given.min_workers,
            resources=resources,
            api_key=given.api_key,
            databases=given.database or [DATABASE_DEFAULT],
            slots=given.slots,
            worker_flags=given.worker_flags,
            ca_file=given.ca_file,
            idle_s=given.idle_seconds,
        )
    except InvalidArgument as error:
        print(f"python -m lakebed.ray: {error}", file=sys.stderr)
        return WRONG_USAGE
    except (LakebedError, ConnectionError, OSError) as error:
        log.error("%s", error)
        return CANNOT_WORK
    with workers:
        while not signals:
            time.sleep(WAKE_S)
    log.info("left")
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
