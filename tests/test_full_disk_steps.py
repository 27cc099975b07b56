"""A disk that fills at each step of a change: page by page further, until the change fits.

With no page left the first file of a change cannot be written, with one the second, and so on: the
data file, the deletions, the transaction, the manifest, the catalogue. At every step the change is
refused as something to be tried again, readers see what was there, and once there is room the same
change succeeds, once.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pytest

from support.data import numbered
from support.faults import seen_by, small_disk
from support.flight import Failure
from support.server import LakebedServer
from support.small_lake import PAGE, SmallLake

PAGES_MAX = 60
CHANGES = [
    "create",
    "append",
    "overwrite",
    "upsert",
    "delete",
    "update",
    "add column",
    "index",
    "tag",
    "restore",
    "rename",
    "compaction",
    "cursor",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    """One lake on a disk of 32 MiB for all steps. Nothing writes to it by the clock but the audit
    log, and that only after a change."""
    server = LakebedServer(tmp_path_factory.mktemp("steps"))
    server.wrapper = small_disk(Path(server.data), mib=32)
    server.start()
    server.expect_log("full|No space left|audit|store|storage|write id")
    lake = SmallLake(server)
    assert lake.root == seen_by(server, Path(server.data))
    yield lake
    assert server.running, "the server lives on"
    server.check_log()
    server.kill()


def fill(small: SmallLake, pages: int) -> None:
    """Leaves so many pages; the audit log may take one while they are counted."""
    for _ in range(20):
        with contextlib.suppress(OSError):
            small.fill(leave=pages * PAGE)
            return
    raise AssertionError("the disk cannot be filled")


class Change:
    """One change of a table of its own."""

    def __init__(self, small: SmallLake, kind: str, number: int) -> None:
        self.server = small.server
        self.lake, self.http = small.server.lake(), small.server.http()
        self.kind = kind
        self.table = f"{kind.replace(' ', '_')}_{number}"
        self.root = small.root

    def prepare(self) -> None:
        """What is there before."""
        if self.kind == "create":
            return
        self.lake.create(self.table, numbered(10))
        for number in range(1, 10 if self.kind == "compaction" else 2):
            self.lake.write(self.table, numbered(2, start=10 * number))

    def make(self) -> str | None:
        """Makes it; nothing, or the kind of its refusal."""
        kind = self.kind
        if kind in {"create", "append", "overwrite", "upsert"}:
            fields: dict[str, Any] = {"on": ["id"]} if kind == "upsert" else {}
            try:
                self.lake.write(self.table, numbered(5, start=8), kind, write_id="w", **fields)
            except Failure:
                return self.lake.received.get("x-lakebed-error-kind")
            return None
        verb, body = {
            "delete": ("delete", {"predicate": "id < 4"}),
            "update": ("update", {"predicate": "id < 4", "updates": [["name", "'new'"]]}),
            "add column": ("add_columns", {"new_columns": [{"name": "w", "expression": "id * 2"}]}),
            "index": ("create_index", {"column": "id", "index_type": "BTREE"}),
            "tag": ("tags/create", {"tag": "gold", "version": 1}),
            "restore": ("restore", {"version": 1}),
            "rename": ("rename", {"new_table_name": f"{self.table}_new"}),
            "compaction": ("compact", {}),
            "cursor": ("cursors/create", {"name": "c", "version": 1}),
        }[kind]
        answer = self.http.post(f"/v1/table/{self.table}/{verb}", body)
        if answer.status != 200:
            return answer.headers.get("x-lakebed-error-kind")
        return self.wait_for(answer.json()["job_id"]) if kind == "index" else None

    def wait_for(self, job: str) -> str | None:
        """The end of a job."""
        while True:
            found = self.http.ok("POST", "/v1/jobs/describe", {"job_id": job}).json()
            if found["job_state"] == "DONE":
                return None
            if found["job_state"] == "FAILED":
                assert "full" in str(found) or "No space left" in str(found), found
                return "unavailable"

    def look(self) -> Any:
        """What readers see."""
        tables = [name for name in self.lake.tables() if name.startswith(self.table)]
        seen: dict[str, Any] = {}
        for table in tables:
            path = f"/v1/table/{table}"
            rows = self.lake.read(table).sort_by("id").to_pydict()
            tags = self.http.ok("POST", f"{path}/tags/list", {}).json()["tags"]
            cursors = self.http.ok("POST", f"{path}/cursors/list", {}).json()["cursors"]
            indexes = self.http.ok("POST", f"{path}/index/list", {}).json()["indexes"]
            seen[table.removeprefix(self.table)] = (
                rows,
                sorted(tags),
                len(cursors),
                sorted(index["index_name"] for index in indexes),
            )
        return seen

    def drop(self) -> None:
        """Makes room for the next step, once Lance has found the table whole."""
        for suffix in self.look():
            path = self.root / f"default/{self.table}.lance"
            lance.dataset(str(path)).validate()
            self.http.ok("POST", f"/v1/table/{self.table}{suffix}/drop")


@pytest.mark.timeout(900)
def test_every_step_of_every_change(small: SmallLake, soak: bool) -> None:
    """Refused until it fits, with as many pages as that takes."""
    steps: dict[str, int] = {}
    number = 0
    for kind in CHANGES * (6 if soak else 1):
        undisturbed = Change(small, kind, number)
        undisturbed.prepare()
        before = undisturbed.look()
        assert undisturbed.make() is None
        after = undisturbed.look()
        undisturbed.drop()
        for pages in range(PAGES_MAX):
            number += 1
            change = Change(small, kind, number)
            change.prepare()
            fill(small, pages)
            refused = change.make()
            seen = change.look()
            small.free()
            if refused is None:
                assert seen == after, f"{kind} with {pages} pages left"
            else:
                assert refused in {"unavailable", "commit_unknown"}, f"{kind}, {pages}: {refused}"
                steps[kind] = steps.get(kind, 0) + 1
                whole = (before, after) if refused == "commit_unknown" else (before,)
                assert seen in whole, f"{kind} with {pages} pages left was refused: {seen}"
                if seen == before:
                    assert change.make() is None, f"{kind} after there was room"
                assert change.look() == after, f"{kind} with {pages} pages left, made again"
            change.drop()
            if refused is None:
                break
        else:
            raise AssertionError(f"{kind} does not fit into {PAGES_MAX} pages")
    print(f"full at {sum(steps.values())} steps: {steps}")
    assert sum(steps.values()) >= (200 if soak else 20)
    assert all(steps.get(kind, 0) > 0 for kind in CHANGES)
