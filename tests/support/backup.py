"""A lake with everything, what can be seen of it, and the verbs that copy and examine lakes."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from support.data import blob_cells, blobs, numbered
from support.server import LakebedServer, built_binary
from support.uploads import upload
from support.waiting import wait_until

MIB = 1 << 20
Make = Callable[..., LakebedServer]


def run(
    home: Path, *args: str, env: dict[str, str] | None = None, wrapper: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """A verb that needs no server."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **(env or {})}
    return subprocess.run(
        [*wrapper, str(built_binary()), *args],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def ok(home: Path, *args: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """A verb that has to succeed; what it says to programs."""
    done = run(home, *args, "--format", "json", env=env)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return json.loads(done.stdout)


def fails(home: Path, *args: str, words: str, env: dict[str, str] | None = None) -> str:
    """A verb that has to fail, saying why."""
    done = run(home, *args, env=env)
    assert done.returncode in {1, 2}, f"{args}: {done.stdout}"
    assert "panicked" not in done.stderr
    assert words in done.stderr, done.stderr
    return done.stderr


def counts(done: dict[str, Any]) -> dict[str, int]:
    return done["counts"]


def examined(home: Path, root: Path | str, env: dict[str, str] | None = None) -> None:
    """Nothing is broken there."""
    done = run(home, "doctor", "--data", str(root), env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def fill(server: LakebedServer) -> dict[str, bytes]:
    """A lake with everything: blobs of all sizes, branches, tags, indexes, deletions, namespaces
    and several databases. Returns the large blobs."""
    lake, http = server.lake(), server.http()
    large = {"one": os.urandom(20 * MIB), "two": os.urandom(17 * MIB)}
    lake.create("media", blobs([b"small", os.urandom(200_000), os.urandom(6 * MIB), large["one"]]))
    cell = {"data": None, "uri": f"upload:{upload(http, large['two'])}"}
    lake.write("media", blob_cells([cell], start=10), write_id="w-media")
    lake.create("ns$in$words", numbered(1_000))
    for i in range(1, 6):
        lake.write("ns$in$words", numbered(100, start=1_000 * i), write_id=f"w-{i}")
    lake.upsert("ns$in$words", pa.table({"id": [5, 9_999], "name": ["five", "new"]}), ["id"])
    http.ok("POST", "/v1/table/ns$in$words/delete", {"predicate": "id < 3"})
    index = {"column": "id", "index_type": "BTREE"}
    job = http.ok("POST", "/v1/table/ns$in$words/create_index", index).json()
    wait_until(
        lambda: (
            http.ok("POST", "/v1/jobs/describe", {"job_id": job["job_id"]}).json()["job_state"]
            == "DONE"
        ),
        "the index",
    )
    http.ok("POST", "/v1/table/ns$in$words/tags/create", {"tag": "gold", "version": 2})
    lance.dataset(str(server.table_path("ns$in$words"))).create_branch("exp", 3)
    lance.dataset(str(server.table_path("media"))).create_branch("cuts", 1)
    lake.write("ns$in$words", numbered(7, start=70_000), branch="exp", write_id="w-exp")
    other = server.lake(database="team/cars")
    other.create("vectors", numbered(50))
    other.create("gone", numbered(1))
    http.ok("POST", "/v1/namespace/empty/create", {"properties": {"k": "v"}})
    lake.create("renamed_from", numbered(3))
    http.ok("POST", "/v1/table/renamed_from/rename", {"new_table_name": "renamed"})
    http.ok("POST", "/v1/keys", {"name": "reader", "role": "read"})
    return large


def told(server: LakebedServer) -> dict[str, Any]:
    """All that a reader can see of the lake that `fill` made."""
    lake, http = server.lake(), server.http()
    seen: dict[str, Any] = {}
    words = "ns$in$words"
    for version in range(1, 10):
        seen[f"words {version}"] = lake.read(words, version=version).sort_by("id")
    for version in range(1, 5):
        rows = lake.read(words, version=version, branch="exp") if version > 3 else None
        seen[f"exp {version}"] = rows
    seen["gold"] = lake.read(words, tag="gold")
    seen["tags"] = http.ok("POST", f"/v1/table/{words}/tags/list").json()
    seen["indexes"] = http.ok("POST", f"/v1/table/{words}/index/list").json()["indexes"]
    for version in (1, 2):
        cells = lake.read("media", version=version, blobs="bytes")["data"].to_pylist()
        seen[f"media {version}"] = [hashlib.sha256(cell).hexdigest() for cell in cells]
    cuts = lake.read("media", branch="cuts", blobs="bytes")["data"].to_pylist()
    seen["cuts"] = [hashlib.sha256(cell).hexdigest() for cell in cuts]
    seen["cars"] = server.lake(database="team/cars").read("vectors")
    seen["renamed"] = lake.read("renamed")
    seen["tables"] = lake.tables()
    seen["namespaces"] = http.ok("GET", "/v1/namespace/$/list").json()
    seen["keys"] = sorted(key["id"] for key in http.ok("GET", "/v1/keys").json()["keys"])
    return seen


def validate(root: Path, table: str, branch: str | None = None) -> list[pa.Table]:
    """Opens every version of a table with Lance alone; their rows."""
    dataset = lance.dataset(str(root / f"{table}.lance"))
    if branch is not None:
        dataset = dataset.checkout_version((branch, None))
    rows = []
    for version in [entry["version"] for entry in dataset.versions()]:
        there = dataset.checkout_version((branch, version) if branch else version)
        there.validate()
        rows.append(there.to_table())
    return rows


def relocated(make_server: Make, server: LakebedServer, there: Path) -> LakebedServer:
    """A server on the lake of another, which it ends, in a folder of another name."""
    assert server.terminate() == 0
    Path(server.data).rename(there)
    ok(server.work, "relocate", "--data", str(there), "--yes", env=server.environment())
    return served(make_server, "moved", there, server)


def served(
    make_server: Make, name: str, root: Path | str, like: LakebedServer, **options: Any
) -> LakebedServer:
    return make_server(name, data=root, admin_key=like.admin_key, **options).start()
