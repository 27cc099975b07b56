"""The environments of functions: real ones, by the real pip, from wheels that the tests write."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from lakebed.functions.definition import FunctionFailed
from lakebed.functions.environment import (
    EnvironmentFailed,
    Environments,
    Interpreter,
    pip_variables,
)
from support.functions import needing
from support.waiting import wait_until
from support.wheels import only_from, write_wheel


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, the only ones there are."""
    folder = tmp_path / "wheels"
    source = "VALUE = 7\ndef main():\n    print('said by the script')\n"
    write_wheel(folder, "tinything", "1.0", source)
    only_from(folder, monkeypatch)
    return folder


def environments(tmp_path: Path, **more: float) -> Environments:
    """Below a folder of the test."""
    return Environments(tmp_path / "cache", [Interpreter.own()], **more)


def said(python: Path, program: str) -> str:
    """What a program prints under an interpreter."""
    command = [str(python), "-s", "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env={"PATH": os.defpath}
    )
    return done.stdout.strip()


@pytest.mark.usefixtures("wheels")
def test_packages_are_installed_once(tmp_path: Path) -> None:
    made = environments(tmp_path)
    first = made.get(needing("tinything==1.0"))
    assert said(first.python, "import tinything; print(tinything.VALUE)") == "7"
    # Also what pip writes with the path of its interpreter.
    script = first.folder / "bin" / "tinything"
    done = subprocess.run([str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "said by the script\n"
    begun = time.monotonic()
    assert environments(tmp_path).get(needing("tinything==1.0")) == first
    assert time.monotonic() - begun < 0.3
    assert made.get(needing()).folder != first.folder


def test_an_environment_has_nothing_of_the_workers_but_pyarrow(tmp_path: Path) -> None:
    found = environments(tmp_path).get(needing())
    names = ["pyarrow", "numpy", "lakebed", "lancedb", "pip", "onnx"]
    found_there = f"print([n for n in {names} if importlib.util.find_spec(n)])"
    assert said(found.python, f"import importlib.util; {found_there}") == "[]"
    more = f"import sys; sys.path.append({str(found.fallback)!r}); import importlib.util"
    assert said(found.python, f"{more}; {found_there}") == "['pyarrow']"
    uses = f"import sys; sys.path.append({str(found.fallback)!r}); import pyarrow"
    assert said(found.python, f"{uses}; print(pyarrow.__version__)") == pa.__version__


def test_a_package_that_is_not_there_is_told(wheels: Path, tmp_path: Path) -> None:
    made = environments(tmp_path)
    with pytest.raises(EnvironmentFailed, match="no-such-thing") as caught:
        made.get(needing("no-such-thing==9"))
    assert not caught.value.retryable
    assert list((tmp_path / "cache/environments").glob("*-*/bin")) == []
    # Somebody provides it, and it is tried again.
    write_wheel(wheels, "no_such_thing", "9", "def main(): pass\n")
    assert made.get(needing("no-such-thing==9")).python.exists()


def test_passwords_of_an_index_are_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:pass-word@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(EnvironmentFailed) as caught:
        environments(tmp_path).get(needing("tinything"))
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text", "retryable"),
    [
        ({"kind": "conda"}, "conda environments are not built; use pip", False),
        ({"kind": "image"}, "image environments are not built", False),
        ({"python_version": "2.7"}, "needs Python 2.7; this worker has 3", True),
    ],
)
def test_other_environments_are_refused(
    tmp_path: Path, changes: dict[str, str], text: str, retryable: bool
) -> None:
    with pytest.raises(FunctionFailed, match=text) as caught:
        environments(tmp_path).get(needing(**changes))
    assert caught.value.retryable == retryable


def test_a_build_sees_nothing_of_the_worker() -> None:
    given = {
        "LAKEBED_API_KEY": "lb_secret",
        "AWS_SECRET_ACCESS_KEY": "s",
        "PYTHONPATH": "/p",
        "PIP_TARGET": "/t",
        "PIP_INDEX_URL": "u",
        "PATH": "/bin",
        "HOME": "/h",
    }
    assert pip_variables(given) == {"PIP_INDEX_URL": "u", "PATH": "/bin", "HOME": "/h"}


@pytest.mark.usefixtures("wheels")
def test_two_workers_may_build_at_once(tmp_path: Path) -> None:
    """Two processes, and two threads in each."""
    program = f"""
        import threading
        from support.functions import needing
        from test_functions_environment import environments
        from pathlib import Path
        made = environments(Path({str(tmp_path)!r}))
        found = []
        def build():
            found.append(made.get(needing("tinything==1.0")))
        threads = [threading.Thread(target=build) for _ in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert found[0] == found[1]
        print(found[0].folder)
    """.replace("\n        ", "\n")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert len(folders(tmp_path)) == 1


def folders(tmp_path: Path) -> Sequence[Path]:
    """Environments, whole ones or not."""
    root = tmp_path / "cache/environments"
    return [path for path in root.glob("*-*") if path.is_dir() and "arrow" not in path.name]


def running_with(folder: Path) -> list[bytes]:
    """Processes whose command names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (command := path.read_bytes()):
                found.append(command)
    return found


def test_what_a_crash_left_is_taken_away(wheels: Path, tmp_path: Path) -> None:
    """Killed in the middle of pip."""
    # A fifo in the place of a wheel: pip waits for its bytes.
    slow = wheels / "slowthing-1.0-py3-none-any.whl"
    os.mkfifo(slow)
    program = f"""
        from support.functions import needing
        from test_functions_environment import environments
        from pathlib import Path
        environments(Path({str(tmp_path)!r})).get(needing("slowthing==1.0"))
    """.replace("\n        ", "\n")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}
    )
    wait_until(
        lambda: any(b"install" in c for f in folders(tmp_path) for c in running_with(f)), "pip"
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    [left] = folders(tmp_path)
    # pip as well, which had not come to its end.
    wait_until(lambda: not running_with(left), "the end of pip")
    slow.unlink()
    write_wheel(wheels, "slowthing", "1.0", "VALUE = 1\ndef main(): pass\n")
    found = environments(tmp_path).get(needing("slowthing==1.0"))
    assert found.folder != left
    assert folders(tmp_path) == [found.folder]
    assert said(found.python, "import slowthing; print(slowthing.VALUE)") == "1"


def test_a_build_has_an_end(wheels: Path, tmp_path: Path) -> None:
    os.mkfifo(wheels / "slowthing-1.0-py3-none-any.whl")
    with pytest.raises(FunctionFailed, match="within 2 s"):
        environments(tmp_path, build_seconds=2.0).get(needing("slowthing==1.0"))
    assert folders(tmp_path) == []


def test_the_end_of_the_worker_ends_a_build(wheels: Path, tmp_path: Path) -> None:
    os.mkfifo(wheels / "slowthing-1.0-py3-none-any.whl")
    made = environments(tmp_path)
    threading.Timer(1.0, made.stop).start()
    begun = time.monotonic()
    with pytest.raises(FunctionFailed, match="ending") as caught:
        made.get(needing("slowthing==1.0"))
    assert caught.value.retryable
    assert time.monotonic() - begun < 10


def test_a_removed_interpreter_is_noticed(tmp_path: Path) -> None:
    made = environments(tmp_path)
    found = made.get(needing())
    for link in (found.folder / "bin").glob("python*"):
        link.unlink()
    again = made.get(needing())
    assert again.folder != found.folder
    assert again.python.exists()


def test_a_cache_that_cannot_be_written_may_be_tried_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(FunctionFailed, match="no environment was made") as caught:
        environments(tmp_path).get(needing())
    assert caught.value.retryable
