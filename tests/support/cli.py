"""The command line as a person or a script uses it."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from support.server import LakebedServer, built_binary

Run = subprocess.CompletedProcess[str]


class Cli:
    """The binary with the address and key of one server in its environment."""

    def __init__(self, server: LakebedServer, home: Path) -> None:
        self.server, self.home = server, home
        # What the verbs are run by.
        self.wrapper: tuple[str, ...] = ()

    def environment(self, **env: str) -> dict[str, str]:
        """What the binary finds in its environment; a variable with an empty value is left out."""
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LAKEBED_URL": f"http://{self.server.http_address}",
            "LAKEBED_API_KEY": self.server.admin_key,
            **env,
        }
        return {name: value for name, value in given.items() if value}

    def run(self, *args: str, timeout_s: float = 60, **env: str) -> Run:
        """Runs a verb to its end."""
        return subprocess.run(
            [*self.wrapper, str(built_binary()), *args],
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Starts a verb in the background."""
        return subprocess.Popen(
            [*self.wrapper, str(built_binary()), *args],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ok(self, *args: str, **env: str) -> str:
        """A verb that has to succeed; its standard output."""
        done = self.run(*args, **env)
        assert done.returncode == 0, f"{args}: {done.stderr}"
        return done.stdout

    def json(self, *args: str) -> Any:
        """What a verb prints with `--format json`."""
        return json.loads(self.ok(*args, "--format", "json"))

    def fails(self, code: int, *args: str, **env: str) -> str:
        """A verb that has to fail with a code; what it says on standard error."""
        done = self.run(*args, **env)
        assert done.returncode == code, f"{args}: {done.returncode} {done.stdout} {done.stderr}"
        assert done.stdout == "", "nothing for a program to take for an answer"
        assert "panicked" not in done.stderr
        return done.stderr

    def heeds_modes(self) -> None:
        """From here on a file's mode keeps its bytes from the verbs, also where root runs them."""
        if os.geteuid() == 0:
            self.wrapper = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def ended(run: subprocess.Popen[str]) -> tuple[str, str, int]:
    """What a verb that was started says on both outputs, and the peak of its memory."""
    peak = 0
    while run.poll() is None:
        # What the kernel reports of a child at its end would count what it was forked from.
        status = Path(f"/proc/{run.pid}/status").read_text()
        if (found := re.search(r"VmHWM:\s+(\d+) kB", status)) is not None:
            peak = int(found.group(1)) * 1024
        time.sleep(0.01)
    out, err = run.communicate()
    return out, err, peak
