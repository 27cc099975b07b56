"""Fetches LanceDB's tests, runs those of `names.txt` against the built server, and compares.

    python -m lancedb_tests [ARGUMENTS OF PYTEST]      # PYTHONPATH=tests, LAKEBED_BIN=…

`names.txt` holds tests that pass on the embedded database of `lancedb` 0.40, of files with one.
Those that do not pass on a server are rows of docs/lancedb-compatibility.md, each with its reason.
It fails when another one fails, when one of the page passes, and when fewer than 97 % pass of those
that a server can make pass: that call nothing which the client has for embedded databases alone or
decides by itself.

With arguments they are handed to pytest, and nothing is compared: files, names, `-k`, `-x`.
`LANCEDB_REPOSITORY` is where the tests come from, an address or a folder that git understands.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from support.server import LakebedServer

COMMIT = "45cd05347846bc2280103680e497e8fc0cdf480e"
REPOSITORY = "https://github.com/lancedb/lancedb"
SHARE_MIN = 0.97
HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs/lancedb-compatibility.md"
# | `test_table.py::test_update` | embedded | why |
ROW = re.compile(
    r"^\| `((?:docs/)?test_\w+\.py::[^`]+)` \| (embedded|client|left) \| (.+) \|$", re.M
)


def run(*command: object, **more: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **more)  # type: ignore[call-overload]


def fetched(cache: Path) -> Path:
    """The folder of the tests, fetched once."""
    folder = cache / COMMIT[:8]
    if folder.is_dir():
        return folder / "python/python/tests"
    with tempfile.TemporaryDirectory(dir=cache) as work:
        git = ["git", "-C", work, "-c", "advice.detachedHead=false"]
        run(*git, "init", "--quiet", "--bare")
        source = os.environ.get("LANCEDB_REPOSITORY", REPOSITORY)
        run(*git, "fetch", "--quiet", "--depth", "1", source, COMMIT)
        archive = Path(work) / "tests.tar"
        wanted = ["python/python/tests", "python/pyproject.toml"]
        run(*git, "archive", "--output", archive, "FETCH_HEAD", *wanted)
        unpacked = Path(work) / "unpacked"
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        unpacked.rename(folder)
    return folder / "python/python/tests"


def environment(cache: Path) -> Path:
    """A Python that has what the tests need, made once for each list of it."""
    lock = HERE / "requirements.txt"
    folder = cache / "venv"
    stamp, said = folder / ".installed", lock.read_text()
    python = folder / "bin/python"
    if not stamp.is_file() or stamp.read_text() != said:
        run(sys.executable, "-m", "venv", "--clear", folder)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--no-deps", "--require-hashes", "--requirement", lock)
        stamp.write_text(said)
    return python


def place(dotted: str) -> str:
    """The file of a test and the class in it: `docs.test_a.TestB` is `docs/test_a.py::TestB`."""
    parts = dotted.split(".")
    end = next(at for at, part in enumerate(parts, 1) if part.startswith("test_"))
    return "::".join(["/".join(parts[:end]) + ".py", *parts[end:]])


def outcomes(report: Path) -> dict[str, str]:
    """What became of each test, by its name."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{place(case.get('classname', ''))}::{case.get('name')}"
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        found[name] = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
    return found


def compare(found: dict[str, str], names: list[str]) -> int:
    """Says what is other than the page tells; the exit code."""
    told = {name: kind for name, kind, _ in ROW.findall(PAGE.read_text())}
    wrong = [
        f"is not told of: {name} {found.get(name, 'did not run')}"
        for name in names
        if found.get(name) != "passed" and name not in told
    ]
    wrong += [f"passes, other than told: {name}" for name in told if found.get(name) == "passed"]
    wrong += [f"is told of and unknown: {name}" for name in told if name not in names]
    counts = Counter(found.get(name, "missing") for name in names)
    kinds = Counter(told.values())
    share = counts["passed"] / (len(names) - kinds["embedded"] - kinds["client"])
    print(f"{len(names)} tests: {dict(counts)}; why not: {dict(kinds)}; of those that a server")
    print(f"can make pass {share:.1%} do")
    print(*wrong, sep="\n")
    return 1 if wrong or share < SHARE_MIN else 0


def main() -> int:
    caches = Path(os.environ.get("LAKEBED_CACHE", Path.home() / ".cache/lakebed"))
    cache = caches / "lancedb-tests"
    cache.mkdir(parents=True, exist_ok=True)
    tests, python = fetched(cache), environment(cache)
    names = (HERE / "names.txt").read_text().split("\n")[:-1]
    with tempfile.TemporaryDirectory(prefix="lancedb-tests-") as work:
        server = LakebedServer(Path(work) / "server").start()
        told = {
            "LANCEDB_TESTS_URL": f"http://{server.http_address}",
            "LANCEDB_TESTS_KEY": server.admin_key,
            "PYTHONPATH": str(HERE),
        }
        report = Path(work) / "report.xml"
        command = [python, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "--quiet"]
        command += [
            "--tb=short",
            "-c",
            tests.parent.parent / "pyproject.toml",
            f"--rootdir={tests}",
        ]
        command += [f"--junitxml={report}", "-W", "ignore", *(sys.argv[1:] or names)]
        try:
            env = os.environ | told
            code = subprocess.run(list(map(str, command)), cwd=tests, env=env).returncode
        finally:
            server.kill()
        return code if sys.argv[1:] else compare(outcomes(report), names)


if __name__ == "__main__":
    sys.exit(main())
