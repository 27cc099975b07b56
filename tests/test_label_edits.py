"""Labels of pictures are edited a million times while everything else goes on: the cells are right
in the end, versions and files stay few, and no picture is written again.

Clients edit by partial upserts and by UPDATE, a worker computes vectors of the pictures, others
search, compactions and cleanings run. The short form does the same to fewer pictures.
"""

import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

from lakebed.models import load
from support import label_edits as edits
from support.flight import Lake
from support.label_edits import CLIENTS, LOG, TABLE, Editor, Together, Watch
from support.server import LakebedServer
from support.stored_files import look
from support.waiting import wait_until
from support.worker import CACHE, PICTURE_MODEL, Jobs, Worker

FRAGMENTS = 4
RETENTION_VERSIONS = 20
# Cleaning begins when so many more are there; what is made while it runs comes on top.
CLEANING_AT = 100
VECTOR_TOLERANCE = 1e-4
# A vector, and the other columns, stamps and entries of indexes of a row.
BYTES_BESIDE = 1_280 * 4 + 400

SETTINGS = {
    "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
    "LAKEBED_LIMITS_CLEANING_INTERVAL_MS": "100",
    "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": str(1 << 30),
    "LAKEBED_LIMITS_RETENTION_MS": "0",
    "LAKEBED_LIMITS_RETENTION_VERSIONS": str(RETENTION_VERSIONS),
    "LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0",
    "LAKEBED_LIMITS_TICKET_TTL_MS": "1000",
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    pictures: int
    edits: int
    batch: int
    timeout_s: float


SHORT = Size(pictures=2_000, edits=20_000, batch=100, timeout_s=100)
# Each fragment has more than 128 MiB, and compaction takes it for whole.
LONG = Size(pictures=200_000, edits=1_000_000, batch=1_000, timeout_s=10_000)


def sha256(cell: bytes) -> bytes:
    return hashlib.sha256(cell).digest()


def make_tables(server: LakebedServer, size: Size, seed: int) -> list[bytes]:
    """The pictures with an index on their places, and an empty log of edits; the pictures'
    digests by id."""
    lake, http = server.lake(), server.http()
    digests: list[bytes] = []
    each = size.pictures // FRAGMENTS
    for part in range(FRAGMENTS):
        rows = edits.batches(range(part * each, (part + 1) * each), seed, digests, sha256)
        mode = "append" if part else "create"
        lake.write(TABLE, rows, mode, schema=edits.SCHEMA, timeout_s=600)
    body = {"column": "place", "index_type": "IVF_FLAT", "num_partitions": 4}
    body |= {"distance_type": "l2"}
    http.ok("POST", f"/v1/table/{TABLE}/create_index", body)
    stats = f"/v1/table/{TABLE}/index/place_idx/stats"
    wait_until(lambda: http.post(stats).status == 200, "the index", 600)
    lake.create(LOG, edits.LOG_SCHEMA.empty_table())
    lake.close()
    return digests


def search_places(lake: Lake, size: Size, dice: random.Random, counts: Counter[str]) -> None:
    """The nearest place is one's own, and every row's label is its own."""
    wanted = dice.randrange(size.pictures)
    fields: dict[str, Any] = {"table": TABLE, "vector": edits.place(wanted), "k": 5}
    fields |= {"vector_column": "place", "nprobes": 4, "columns": ["id", "label"]}
    found = lake.search(fields).to_pylist()
    assert found[0]["id"] == wanted, found
    for row in found:
        assert row["label"].endswith(f" of {row['id']}"), row
    counts["searches"] += 1


def compact(server: LakebedServer, counts: Counter[str]) -> None:
    """The log's small fragments are joined; the pictures' are left alone."""
    http = server.http()
    done = http.ok("POST", f"/v1/table/{TABLE}/compact", {}, timeout_s=600).json()
    assert done["planned"] == [], done
    done = http.ok("POST", f"/v1/table/{LOG}/compact", {}, timeout_s=600).json()
    counts["compactions asked for"] += 1
    counts["fragments joined when asked"] += done["fragments_removed"]


def stream(lake: Lake, columns: list[str], **fields: Any) -> Iterator[pa.RecordBatch]:
    """The table's batches in one stream, which needs no ticket that could run out meanwhile."""
    command = {"read": {"table": TABLE, "columns": columns, **fields}}
    for chunk in lake.stream(flight.Ticket(json.dumps(command).encode()), 3_600):
        yield chunk.data


def check_cells(lake: Lake, editors: list[Editor], size: Size) -> None:
    """Every cell is what its editor's model says."""
    rows = pa.Table.from_batches(stream(lake, ["id", "label", "edits"]))
    found = rows.sort_by("id").to_pydict()
    assert found["id"] == list(range(size.pictures))
    wanted = [editors[id % CLIENTS].model[id] for id in range(size.pictures)]
    assert found["label"] == [label for label, _ in wanted]
    assert found["edits"] == [count for _, count in wanted]
    assert sum(found["edits"]) == sum(editor.edits for editor in editors)
    log = lake.read(LOG)
    assert log.num_rows == sum(editor.upserts + editor.updates for editor in editors)
    assert sum(log["cells"].to_pylist()) == sum(editor.edits for editor in editors)


def check_pictures(lake: Lake, digests: list[bytes]) -> list[bytes]:
    """Every picture is what it was, byte for byte; the first ones of them."""
    seen: dict[int, bytes] = {}
    first: dict[int, bytes] = {}
    for chunk in stream(lake, ["id", "data"], blobs="bytes"):
        for id, cell in zip(*(column.to_pylist() for column in chunk.columns), strict=True):
            seen[id] = sha256(cell)
            if id < 20:
                first[id] = cell
    assert [seen[id] for id in range(len(digests))] == digests
    assert len(seen) == len(digests)
    return [first[id] for id in range(20)]


def check_vectors(lake: Lake, pictures: list[bytes], size: Size) -> None:
    """Every picture has its vector; the first ones have those that the model gives here."""
    counted = [(it.num_rows, it["vector"].null_count) for it in stream(lake, ["vector"])]
    assert [sum(column) for column in zip(*counted, strict=True)] == [size.pictures, 0]
    model = load(PICTURE_MODEL, CACHE, device="cpu")
    wanted = np.concatenate([model.compute([row]) for row in model.prepare(pictures)])
    some = lake.read(TABLE, columns=["id", "vector"], filter=f"id < {len(pictures)}").sort_by("id")
    numbers = np.array(some["vector"].to_pylist(), dtype=np.float32)
    assert np.abs(numbers - wanted).max() < VECTOR_TOLERANCE


def total(server: LakebedServer, name: str) -> int:
    """A counter of the server's."""
    found = re.search(rf"^lakebed_{name}_total (\d+)$", server.http().get("/metrics").text, re.M)
    return int(found[1]) if found else 0


@pytest.mark.timeout(14_400)
def test_labels_are_edited_beside_everything(
    make_server: Callable[..., LakebedServer], soak: bool
) -> None:
    size = LONG if soak else SHORT
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    began = time.monotonic()
    server = make_server(env=SETTINGS).start()
    digests = make_tables(server, size, seed)
    assert len(set(digests)) == size.pictures
    folder = server.table_path(TABLE)
    start = {path: file for path, file in look(folder).items() if path.startswith("data/")}
    assert len(start) == FRAGMENTS
    # So a picture that is written again is found by how it begins.
    assert sum(edits.count_pictures(folder / path) for path in start) == size.pictures
    print(
        f"{size.pictures} pictures, {sum(file.bytes for file in start.values())} bytes, "
        f"after {edits.seconds_since(began)}"
    )

    worker, jobs = Worker(server, "worker").start(), Jobs(server)
    watch = Watch(folder, look(folder))
    counts: Counter[str] = Counter()
    editors = [Editor(server, number, size.pictures, seed) for number in range(CLIENTS)]
    searcher, dice = server.lake(), random.Random(seed)
    try:
        jobs.wait_for_workers(1)
        job = jobs.submit(TABLE, "data", "vector", PICTURE_MODEL)
        with Together() as others, ThreadPoolExecutor(CLIENTS) as pool:
            others.again(lambda: search_places(searcher, size, dice, counts), 0.01)
            others.again(lambda: compact(server, counts), 0.2)
            others.again(watch.look, 0.2)
            each = size.edits // CLIENTS
            for edited in [pool.submit(editor.edit, each, size.batch) for editor in editors]:
                edited.result()
            print(f"edited after {edits.seconds_since(began)}")
            ended = jobs.wait(job, size.timeout_s)
            print(f"embedded after {edits.seconds_since(began)}")
            assert ended["job_state"] == "DONE", ended
            assert ended["result"]["errors"] == 0, ended
    finally:
        worker.kill()
    lake = server.lake()
    check_cells(lake, editors, size)
    check_vectors(lake, check_pictures(lake, digests), size)
    check_files(server, watch, start, size)
    done = [(editor.edits, editor.upserts, editor.updates) for editor in editors]
    print("edits, upserts and UPDATEs:", [sum(column) for column in zip(*done, strict=True)])
    print(
        dict(counts),
        f"{watch.looks} looks, at most {watch.versions_most} versions, "
        f"{watch.files_most} files and {watch.bytes_most} bytes besides the pictures",
    )
    totals = [total(server, name) for name in ("compacted_fragments", "cleaned_versions")]
    print("fragments joined by themselves and versions cleaned:", totals)
    joined = counts["fragments joined when asked"] + totals[0]
    assert min(counts["searches"], counts["compactions asked for"], joined, totals[1]) > 0
    print(f"done after {edits.seconds_since(began)}")


def check_files(server: LakebedServer, watch: Watch, start: dict[str, Any], size: Size) -> None:
    """Few versions and files were there at any time and are left, none of which has a picture but
    those that had them at the start, and these were not touched."""
    folder = server.table_path(TABLE)
    watch.look()
    assert watch.with_pictures == []
    assert watch.new_files > 0
    assert start.items() <= look(folder).items()
    assert watch.versions_most <= RETENTION_VERSIONS + 2 * CLEANING_AT

    def is_small() -> bool:
        """Whether few versions are left, and few files: those of a version go after its manifest. A
        version has a manifest, a transaction and at most one file for each fragment; besides, each
        fragment has pictures and vectors, and there are two indexes."""
        left = look(folder)
        files_most = RETENTION_VERSIONS * (FRAGMENTS + 2) + 2 * FRAGMENTS + 20
        return edits.count_versions(left) <= RETENTION_VERSIONS and len(left) <= files_most

    wait_until(is_small, "the cleaning", 60)
    print(f"{len(look(folder))} files are left by the cleaning")

    def is_clean() -> bool:
        """Whether one version is left; a reader's ticket may keep another for a second."""
        body = {"keep_age_ms": 0, "keep_versions": 1}
        server.http().ok("POST", f"/v1/table/{TABLE}/gc", body)
        return edits.count_versions(look(folder)) == 1

    wait_until(is_clean, "the cleaning of all old versions", 60)
    stored = lance.dataset(str(folder))
    stored.validate()
    named = {f"data/{file.path}" for part in stored.get_fragments() for file in part.data_files()}
    left = look(folder)
    assert {path for path in left if path.startswith("data/")} == named
    assert start.items() <= left.items()
    besides = sum(file.bytes for path, file in left.items() if path not in start)
    print(f"{len(left)} files with {besides} bytes besides the pictures in the newest version")
    assert besides <= size.pictures * BYTES_BESIDE + 1_000_000
