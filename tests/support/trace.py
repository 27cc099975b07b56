"""System calls of the server in their order, from a trace that strace wrote.

A call that waits is printed in two lines, its start and its end; both are kept, because "A was done
before B" means that A had ended before B began.
"""

import re
from dataclasses import dataclass
from pathlib import Path

STRACE = [
    "strace",
    *("--follow-forks", "--seccomp-bpf", "-yy", "--string-limit=512"),
    "--trace=openat,creat,write,pwrite64,writev,pwritev,ftruncate,copy_file_range,sendfile,"
    "rename,renameat,renameat2,link,linkat,mkdir,mkdirat,fsync,fdatasync,sync_file_range,"
    "sendto,sendmsg",
]

LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
CALL = re.compile(r"^(?P<name>\w+)\((?P<rest>.*)$")
FD_PATH = re.compile(r"^\d+<(?P<path>/[^>]*)>")
AT_PATH = re.compile(r"(?:AT_FDCWD(?:<[^>]*>)?|\d+<(?P<base>[^>]*)>), \"(?P<name>[^\"]*)\"")
PLAIN_PATH = re.compile(r"\"(?P<name>[^\"]*)\"")


@dataclass
class Call:
    """One system call: its place in the trace when it began and when it ended."""

    name: str
    text: str
    began: int
    ended: int

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return re.search(r"= -\d", self.text) is None

    @property
    def path(self) -> str | None:
        """The file of the descriptor that is its first argument."""
        found = FD_PATH.match(self.text.split("(", 1)[1])
        return found.group("path") if found else None

    @property
    def names(self) -> list[str]:
        """The paths that are arguments of an opening, linking or renaming call."""
        arguments = self.text.split("(", 1)[1]
        if "at" not in self.name:
            return [found.group("name") for found in PLAIN_PATH.finditer(arguments)]
        return [
            found.group("name")
            if found.group("name").startswith("/")
            else f"{found.group('base')}/{found.group('name')}"
            for found in AT_PATH.finditer(arguments)
        ]


def read_trace(path: Path) -> list[Call]:
    """The calls of a trace in the order in which they ended."""
    calls: list[Call] = []
    open_calls: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines()):
        found = LINE.match(line)
        if found is None:
            continue
        pid, rest = found.group("pid"), found.group("rest")
        began = number
        if (resumed := RESUMED.match(rest)) is not None:
            if pid not in open_calls:
                continue
            start, began = open_calls.pop(pid)
            rest = start + resumed.group("rest")
        elif rest.endswith("<unfinished ...>"):
            open_calls[pid] = (rest.removesuffix("<unfinished ...>").rstrip(), number)
            continue
        if (call := CALL.match(rest)) is not None:
            calls.append(Call(call.group("name"), rest, began, number))
    return calls


WRITES = {"write", "pwrite64", "writev", "pwritev", "ftruncate", "copy_file_range", "sendfile"}
SYNCS = {"fsync", "fdatasync"}
MOVES = {"rename", "renameat", "renameat2", "link", "linkat"}
SENDS = {"write", "writev", "sendto", "sendmsg"}


class Trace:
    """Questions about the order of calls."""

    def __init__(self, path: Path) -> None:
        self.calls = [call for call in read_trace(path) if call.ok]

    def arrival(self, path: str) -> Call:
        """The call that gave a file or directory its final name: a rename, a link, or else its
        creation."""
        for call in self.calls:
            if call.name in MOVES and call.names[-1] == path:
                return call
        for call in self.calls:
            if call.name == "openat" and "O_CREAT" in call.text and call.names == [path]:
                return call
            if call.name in {"mkdir", "mkdirat"} and call.names == [path]:
                return call
        raise AssertionError(f"nothing in the trace made {path}")

    def former_names(self, path: str) -> set[str]:
        """The name of a file and those it had before it was renamed or linked to it."""
        names = {path}
        for call in reversed(self.calls):
            if call.name in MOVES and call.names[-1] in names:
                names.add(call.names[0])
        return names

    def last_write(self, path: str) -> Call | None:
        """The last call that changed the contents of a file under any of its names."""
        names = self.former_names(path)
        writes = [call for call in self.calls if call.name in WRITES and call.path in names]
        return writes[-1] if writes else None

    def syncs(self, path: str) -> list[Call]:
        """The calls that synced a file or directory, under any of its names."""
        names = self.former_names(path)
        return [call for call in self.calls if call.name in SYNCS and call.path in names]

    def answer(self, text: str) -> Call:
        """The call that sent a text to a client."""
        escaped = text.replace('"', '\\"')
        for call in self.calls:
            if call.name in SENDS and "TCP" in call.text and escaped in call.text:
                return call
        raise AssertionError(f"no answer with {text} in the trace")
