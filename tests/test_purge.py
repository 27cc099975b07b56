"""After a purge the bytes of deleted rows are nowhere below the root; the others are as before."""

import contextlib
import hashlib
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from support import indexes
from support.cli import Cli
from support.data import blob_field, blobs
from support.flight import Failure, Lake, write_command
from support.http import Response
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer
from support.uploads import upload
from support.waiting import wait_until

Make = Callable[..., LakebedServer]

KIB, MIB = 1 << 10, 1 << 20
LARGE = 16 * MIB + 1
DIMENSIONS = 16
# Tickets keep their versions for a second.
UNLEASED = {"LAKEBED_LIMITS_TICKET_TTL_MS": "1000"}


def purge(server: LakebedServer, table: str, **body: Any) -> Response:
    return server.http().post(f"/v1/table/{table}/purge", body)


def purged(server: LakebedServer, table: str, **body: Any) -> dict[str, Any]:
    """The answer of a purge, once tickets of reads before it are over."""

    def answered() -> Response | None:
        answer = purge(server, table, **body)
        assert answer.status == 200 or "a reader or a ticket" in answer.text, answer.text
        return answer if answer.status == 200 else None

    return wait_until(answered, "the end of tickets", poll_s=0.1).json()


def delete(server: LakebedServer, table: str, predicate: str, **body: Any) -> None:
    path = f"/v1/table/{table}/delete"
    server.http().ok("POST", path, {"predicate": predicate, **body})


def found_in(server: LakebedServer, pattern: bytes) -> list[str]:
    """The files below the lake's root that hold a pattern."""
    root = Path(server.data)
    found = []
    for path in root.rglob("*"):
        # The audit log is being written.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and pattern in path.read_bytes():
                found.append(str(path.relative_to(root)))
    return found


def noise(dice: random.Random, size: int) -> bytes:
    return dice.randbytes(size)


class Person:
    """A row whose every value can be told apart from all others in the bytes of a file."""

    def __init__(self, number: int, blob_bytes: int) -> None:
        self.number = number
        self.text = f"text{secrets.token_hex(12)}"
        self.key = f"key{secrets.token_hex(12)}"
        self.label = f"label{secrets.token_hex(12)}"
        self.word = f"word{secrets.token_hex(8)}"
        dice = random.Random(secrets.token_bytes(16))
        self.mark = dice.randbytes(32)
        body = bytearray(dice.randbytes(min(blob_bytes, MIB)) * (blob_bytes // MIB + 1))
        self.blob = bytes(body[:blob_bytes])
        numbers = np.frombuffer(dice.randbytes(DIMENSIONS * 2), np.uint16)
        self.vector = numbers.astype(np.float32) / 7

    def patterns(self) -> dict[str, bytes]:
        return {
            "text": self.text.encode(),
            "key": self.key.encode(),
            "label": self.label.encode(),
            "blob": self.blob[1_000:1_032],
            "vector": self.vector.tobytes(),
        }


def rows_of(people: list[Person]) -> pa.Table:
    vectors = np.concatenate([person.vector for person in people])
    columns = {
        "id": pa.array([person.number for person in people], pa.int64()),
        "text": [person.text for person in people],
        "key": [person.key for person in people],
        "label": [person.label for person in people],
        "words": [f"{person.word} common words" for person in people],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIMENSIONS),
    }
    table = pa.table(columns)
    cells = pa.array([person.blob for person in people], pa.large_binary())
    return table.append_column(blob_field(), cells)


def people(count: int, start: int = 0) -> list[Person]:
    """Rows with blobs of each placement."""
    sizes = [10 * KIB, 100 * KIB, 5 * MIB]
    return [Person(start + number, sizes[number % 3]) for number in range(count)]


def contents(lake: Lake, table: str, **at: Any) -> list[dict[str, Any]]:
    rows = lake.read(table, blobs="bytes", **at).sort_by("id").to_pylist()
    for row in rows:
        row["data"] = hashlib.sha256(row["data"]).hexdigest() if row["data"] is not None else None
    return rows


def by_pylance(server: LakebedServer, table: str) -> dict[int, str]:
    """The digests of the blobs by `id`, read without the server."""
    stored = lance.dataset(str(server.table_path(table)))
    stored.validate()
    ids = stored.to_table(columns=["id"])["id"].to_pylist()
    files = stored.take_blobs("data", indices=list(range(len(ids))))
    return {
        number: hashlib.sha256(file.readall()).hexdigest()
        for number, file in zip(ids, files, strict=True)
    }


def versions(server: LakebedServer, table: str) -> list[int]:
    folder = server.table_path(table) / "_versions"
    return sorted(2**64 - 1 - int(path.stem) for path in folder.glob("*.manifest"))


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakebedServer]:
    """The server that the tests of this module share."""
    server = LakebedServer(tmp_path_factory.mktemp("shared"), env=UNLEASED).start()
    yield server
    server.kill()


def test_the_bytes_of_deleted_rows_are_gone(
    server: LakebedServer, lake: Lake, table: str, tmp_path: Path
) -> None:
    """Values with and without an index, blobs of every placement, vectors, old values of changed
    cells, and what a dropped column had."""
    kept = people(12)
    gone = [*people(3, start=100), Person(200, LARGE)]
    lake.create(table, rows_of(kept[:6] + gone[:2]))
    lake.write(table, rows_of(kept[6:] + gone[2:]))
    indexes.build_each(server, table, key="key")
    http = server.http()
    old = Person(0, 0)
    body = {"predicate": "id = 3", "updates": [["text", f"'{old.text}'"]]}
    http.ok("POST", f"/v1/table/{table}/update/", body)
    body = {"predicate": "id = 3", "updates": [["text", "'new text'"]]}
    http.ok("POST", f"/v1/table/{table}/update/", body)
    dropped = f"dropped{secrets.token_hex(12)}"
    body = {"new_columns": [{"name": "extra", "expression": f"'{dropped}'"}]}
    http.ok("POST", f"/v1/table/{table}/add_columns/", body)
    http.ok("POST", f"/v1/table/{table}/drop_columns/", {"columns": ["extra"]})
    for person in gone[:3]:
        delete(server, table, f"text = '{person.text}'")
    delete(server, table, f"key = '{gone[3].key}'")

    # The newest version shows none of it, and all of it is there.
    before = contents(lake, table)
    assert [row["id"] for row in before] == list(range(12))
    patterns = {
        f"{name} of {person.number}": pattern
        for person in gone
        for name, pattern in person.patterns().items()
    }
    patterns |= {"an old value": old.text.encode(), "a dropped column": dropped.encode()}
    indexed: set[str] = set()
    for name, pattern in patterns.items():
        where = found_in(server, pattern)
        assert where, f"{name} cannot be found, so that nothing can be said of it"
        indexed |= {name.split()[0] for path in where if "_indices" in path}
    assert indexed >= {"key", "label", "vector"}
    assert any("_transactions" in path for path in found_in(server, gone[0].text.encode()))

    planned = purged(server, table, dry_run=True)
    assert planned["held_by"] == []
    assert planned["fragments"] >= 2
    assert planned["deleted_rows"] == 4
    assert planned["indexes"] == ["key_idx", "label_idx", "vector_idx", "words_idx"]
    assert found_in(server, gone[0].text.encode()), "a dry run deletes nothing"
    told = Cli(server, tmp_path).ok("purge", table, "--dry-run")
    assert "4 deleted rows" in told
    assert "nothing was done" in told

    # The tickets of the read above are over, so that one purge does it all.
    time.sleep(1.5)
    done = purged(server, table)
    assert done["indexes"] == planned["indexes"]
    assert done["blobs"] == {"blobs": 1, "bytes": LARGE}
    assert done["blobs_kept"] == []
    for name, pattern in patterns.items():
        assert found_in(server, pattern) == [], name
    assert versions(server, table) == [done["version"]]
    assert contents(lake, table) == before
    assert by_pylance(server, table) == {row["id"]: row["data"] for row in before}
    query = {"vector": [float(x) for x in kept[5].vector], "k": 1, "nprobes": 2}
    assert lake.search({"table": table, **query})["id"].to_pylist() == [5]
    text = {"full_text_query": {"query": kept[7].word}, "k": 3}
    assert lake.search({"table": table, **text})["id"].to_pylist() == [7]

    # A second time there is nothing to do, and no version is made.
    again = purged(server, table)
    assert (again["version"], again["fragments"], again["indexes"]) == (done["version"], 0, [])
    assert (again["versions"], again["files"]) == ([], {})

    def audited() -> str:
        lines = (Path(server.data) / "_lakebed/audit").rglob("*.jsonl")
        return "".join(path.read_text() for path in lines)

    wait_until(lambda: '"verb":"purge"' in audited(), "the audit line")


def test_values_of_every_kind_of_column(server: LakebedServer, lake: Lake, table: str) -> None:
    """Lists and structs do not carry values of deleted rows along; dictionaries would: refused."""
    # Without a beginning that others have, because pages may be compressed.
    secret = {kind: secrets.token_hex(12) for kind in ("dict", "list", "struct", "bin")}
    texts = {kind: [f"{kind} {n}" for n in range(20)] + [text] for kind, text in secret.items()}
    lake.create(
        table,
        pa.table(
            {
                "id": pa.array(range(21), pa.int64()),
                "dict": pa.array(texts["dict"]).dictionary_encode(),
                "list": pa.array([[text, "x"] for text in texts["list"]]),
                "struct": pa.array([{"a": text} for text in texts["struct"]]),
                "bin": pa.array([text.encode() for text in texts["bin"]], pa.large_binary()),
            }
        ),
    )
    before = lake.read(table, filter="id < 20").drop_columns(["dict"])
    delete(server, table, "id = 20")
    for text in secret.values():
        assert found_in(server, text.encode())
    refused(purge(server, table), "column `dict` is dictionary-encoded", "nothing was done")
    body = {"alterations": [{"path": "dict", "data_type": {"type": "string"}}]}
    server.http().ok("POST", f"/v1/table/{table}/alter_columns/", body)
    purged(server, table)
    for kind, text in secret.items():
        assert found_in(server, text.encode()) == [], kind
    assert lake.read(table).drop_columns(["dict"]).equals(before)
    assert lake.read(table)["dict"].to_pylist() == texts["dict"][:20]


def test_whole_fragments_and_predicates(server: LakebedServer, lake: Lake, table: str) -> None:
    """Where nothing is left to be rewritten, what the deletion said goes all the same."""
    secret = Person(1, 10)
    lake.create(table, pa.table({"id": [0], "text": ["stays"]}))
    lake.write(table, pa.table({"id": [1], "text": [secret.text]}))
    delete(server, table, f"text = '{secret.text}'")
    assert purged(server, table, dry_run=True)["fragments"] == 0
    assert any("_versions" in path for path in found_in(server, secret.text.encode()))
    purged(server, table)
    assert found_in(server, secret.text.encode()) == []
    assert lake.read(table).to_pydict() == {"id": [0], "text": ["stays"]}
    # What is appended later needs no second purge.
    lake.write(table, pa.table({"id": [2], "text": ["later"]}))
    done = purged(server, table)
    assert done["fragments"] == 0
    assert lake.count(table) == 2


def refused(answer: Response, *words: str) -> None:
    assert answer.status == 409, answer.text
    for word in words:
        assert word in answer.text, answer.text


def test_tags_cursors_and_branches_refuse(server: LakebedServer, lake: Lake, table: str) -> None:
    secret = Person(1, 10)
    lake.create(table, pa.table({"id": [0, 1], "text": ["stays", secret.text]}))
    http = server.http()
    http.ok("POST", f"/v1/table/{table}/tags/create", {"tag": "gold", "version": 1})
    http.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "mailer", "version": 1})
    stored = lance.dataset(str(server.table_path(table)))
    stored.create_branch("exp", 1)
    delete(server, table, "id = 1")
    before = server.files(f"default/{table}.lance")
    refused(
        purge(server, table),
        *("tag `gold` names version 1", "cursor `mailer`", "branch `exp` began with version 1"),
        "nothing was done",
    )
    assert server.files(f"default/{table}.lance") == before
    assert len(purged(server, table, dry_run=True)["held_by"]) == 4
    http.ok("POST", f"/v1/table/{table}/tags/delete", {"tag": "gold"})
    http.ok("POST", f"/v1/table/{table}/cursors/delete", {"name": "mailer"})
    refused(purge(server, table), "branch `exp`")
    # The branch shows the row, so its own purge leaves it alone.
    assert purged(server, table, branch="exp", dry_run=True)["held_by"] == []
    stored.branches.delete("exp")
    purged(server, table)
    assert found_in(server, secret.text.encode()) == []
    assert lake.read(table).to_pydict() == {"id": [0], "text": ["stays"]}


def test_a_branch_of_its_own(server: LakebedServer, lake: Lake, table: str) -> None:
    """Rows that were written on a branch are purged there; rows of its parent are the parent's."""
    mine, inherited = Person(1, 10), Person(2, 10)
    lake.create(table, pa.table({"id": [0, 2], "text": ["stays", inherited.text]}))
    lance.dataset(str(server.table_path(table))).create_branch("exp", 1)
    lake.write(table, pa.table({"id": [1, 3], "text": [mine.text, "more"]}), branch="exp")
    delete(server, f"{table}", "id = 1", branch="exp")
    assert found_in(server, mine.text.encode())
    purged(server, table, branch="exp")
    assert found_in(server, mine.text.encode()) == []
    rows = lake.read(table, branch="exp").sort_by("id")
    assert rows["text"].to_pylist() == ["stays", inherited.text, "more"]
    delete(server, table, "id = 2", branch="exp")
    refused(purge(server, table, branch="exp"), "branch `main` has files")
    assert lake.count(table) == 2


def test_a_cursor_at_the_newest_version_moves_on(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    secret = Person(1, 10)
    lake.create(table, pa.table({"id": [0, 1], "text": ["stays", secret.text]}))
    delete(server, table, "id = 1")
    http = server.http()
    http.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "mailer", "version": 2})
    refused(purge(server, table), "version 2", "cursor `mailer`", "all else is done")
    newest = versions(server, table)[-1]
    http.ok("POST", f"/v1/table/{table}/cursors/advance", {"name": "mailer", "version": newest})
    purged(server, table)
    assert versions(server, table) == [newest]
    assert found_in(server, secret.text.encode()) == []


def test_a_reader_is_told(make_server: Make) -> None:
    """It reads on; once it is done the purge is done by running it again."""
    server = make_server(env={"LAKEBED_LIMITS_TICKET_TTL_MS": "4000"}).start()
    lake, secret = server.lake(), Person(1, 100 * KIB)
    rows = blobs([b"stays", secret.blob])
    lake.create("t", rows)
    info = lake.info("t", blobs="bytes")
    delete(server, "t", "id = 1")
    refused(purge(server, "t"), "version 1", "a reader or a ticket", "all else is done")
    assert lake.fetch(info.endpoints[0])["data"].to_pylist() == [b"stays", secret.blob]
    assert found_in(server, secret.blob[:64])
    wait_until(lambda: purge(server, "t").status == 200, "the end of the ticket", poll_s=0.5)
    assert found_in(server, secret.blob[:64]) == []
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == [b"stays"]


def test_a_large_blob_that_others_need(
    server: LakebedServer, lake: Lake, table: str, tmp_path: Path
) -> None:
    secret = Person(1, LARGE)
    digest = hashlib.sha256(secret.blob).hexdigest()
    other = f"{table}_other"
    for name in (table, other):
        lake.create(name, blobs([b"stays", secret.blob]))
    delete(server, table, "id = 1")
    done = purged(server, table)
    assert done["blobs"]["blobs"] == 0
    [kept] = done["blobs_kept"]
    assert kept["sha256"] == digest
    assert other in kept["kept_by"]
    upload_id = upload(server.http(), secret.blob)
    delete(server, other, "id = 1")
    told = Cli(server, tmp_path).ok("purge", other, "--yes")
    assert f"blob {digest} stays: an upload stands for it" in told
    server.http().ok("DELETE", f"/v1/uploads/{upload_id}")
    assert found_in(server, secret.blob[:64]) == [f"_blobs/sha256/{digest[:2]}/{digest}"]
    assert purged(server, other)["blobs"] == {"blobs": 1, "bytes": LARGE}
    assert found_in(server, secret.blob[:64]) == []
    assert lake.read(other, blobs="bytes")["data"].to_pylist() == [b"stays"]


def test_what_killed_writes_left_goes(make_server: Make) -> None:
    """Files that no version names, unless a write may be under way with them."""
    server = make_server(env=UNLEASED).start()
    lake = server.lake()
    lake.create("t", blobs([b"stays"]))
    data = server.table_path("t") / "data"
    left = [data / "left.lance", data / "left.lance#1", data / ".tmpabc", data / "b.lance#12"]
    for path in left:
        path.write_bytes(b"of a killed write")
    (data / "notes.txt").write_bytes(b"of a person")
    long_ago = time.time() - 60
    for path in left:
        os.utime(path, (long_ago, long_ago))
    done = purged(server, "t")
    assert done["orphans"] == 4
    assert not any(path.exists() for path in left)
    assert (data / "notes.txt").exists()

    # A write that is under way keeps its files, and a part of one until it is complete.
    http = server.http()
    part = http.ok("POST", "/v1/table/t/multipart_write/create").json()["upload_id"]
    sink = pa.BufferOutputStream()
    rows = blobs([b"a part"], start=5)
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    path = f"/v1/table/t/insert/?upload_id={part}&upload_part_id=p"
    kind = {"content-type": "application/vnd.apache.arrow.stream"}
    http.ok("POST", path, sink.getvalue().to_pybytes(), headers=kind)
    staged = set(data.glob("*.lance"))
    for file in staged:
        os.utime(file, (long_ago, long_ago))
    server.restart()
    writer, reader = server.lake().begin(write_command("t"), rows.schema)
    writer.write_table(blobs([secrets.token_bytes(1 * MIB)] * 8, start=10))
    (data / "young.lance").write_bytes(b"of a write")
    done = purged(server, "t")
    assert done["orphans_left"] >= 1
    assert (data / "young.lance").exists()
    writer.done_writing()
    reader.read()
    writer.close()
    server.http().ok("POST", f"/v1/table/t/multipart_write/complete?upload_id={part}")
    ids = server.lake().read("t")["id"].to_pylist()
    assert sorted(ids) == [0, 5, *range(10, 18)]
    assert len(server.lake().read("t", blobs="bytes")["data"].to_pylist()) == 10


def test_who_may_and_what_is_refused(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, pa.table({"id": [1]}))
    admin = server.http()
    key = admin.ok("POST", "/v1/keys", {"name": "w", "role": "write"}).json()["key"]
    writer = server.http(key)
    for body in ({}, {"dry_run": True}):
        assert writer.post(f"/v1/table/{table}/purge", body).status == 403
    assert purge(server, table, rows="all").status == 400
    assert purge(server, "no_such_table").status == 404
    assert purge(server, table, branch="none").status == 404


def test_beside_writers(make_server: Make) -> None:
    """Rows come, change and go meanwhile; no write is lost, and what was deleted before is gone."""
    server = make_server(env=UNLEASED).start()
    lake = server.lake()
    gone = people(6, start=1_000)
    lake.create("t", rows_of(people(6) + gone))
    indexes.build_each(server, "t", key="key")
    delete(server, "t", "id >= 1000")
    stop = threading.Event()
    problems: list[BaseException] = []
    written: list[int] = []

    def write() -> None:
        mine, number = server.lake(), 10_000
        try:
            while not stop.is_set():
                number += 1
                mine.write("t", rows_of([Person(number, 10 * KIB)]))
                written.append(number)
                text = pa.table({"id": [number], "text": [f"changed {number}"]})
                mine.upsert("t", text, ["id"])
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    wait_until(lambda: len(written) > 3, "writes")

    def try_it() -> bool:
        answer = purge(server, "t")
        assert answer.status in {200, 409}, answer.text
        return answer.status == 200

    try:
        wait_until(try_it, "a purge", 120)
    finally:
        stop.set()
        thread.join(60)
    assert not problems, problems
    for person in gone:
        for name, pattern in person.patterns().items():
            assert found_in(server, pattern) == [], name
    rows = lake.read("t", columns=["id", "text"]).to_pylist()
    assert {row["id"] for row in rows} == {*range(6), *written}
    for row in rows:
        assert row["id"] < 6 or row["text"] == f"changed {row['id']}"
    lance.dataset(str(server.table_path("t"))).validate()


@pytest.mark.timeout(1_800)
def test_killed_in_the_middle(make_server: Make, soak: bool) -> None:
    """Nothing is lost, and the next purge does the rest."""
    kills = 40 if soak else 3
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    server = make_server(env=UNLEASED).start()
    kept = people(4)
    server.lake().create("t", rows_of(kept))
    indexes.build_each(server, "t", key="key")
    expected = contents(server.lake(), "t")
    cut, took_s = 0, 0.5
    for turn in range(kills):
        gone = [*people(3, start=1_000), Person(2_000, LARGE)]
        for person in gone:
            server.lake().write("t", rows_of([person, Person(3_000 + person.number, 10)]))
        delete(server, "t", "id >= 1000")
        before = versions(server, "t")

        def work() -> None:
            with contextlib.suppress(OSError, AssertionError):
                purge(server, "t")

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: versions(server, "t") != before, "its beginning", poll_s=0.001)  # noqa: B023
        # Somewhere in what it took the last time.
        time.sleep(dice.random() * took_s * 0.7)
        server.kill()
        thread.join(60)
        left = [pattern for person in gone for pattern in person.patterns().values()]
        cut += any(found_in(server, pattern) for pattern in left)
        server.start()
        assert contents(server.lake(), "t") == expected, f"turn {turn}"
        began = time.monotonic()
        purged(server, "t")
        took_s = min(took_s, time.monotonic() - began)
        for person in gone:
            for name, pattern in person.patterns().items():
                assert found_in(server, pattern) == [], name
        assert contents(server.lake(), "t") == expected, f"turn {turn}"
    print(f"{cut} of {kills} kills hit a purge")
    assert by_pylance(server, "t") == {row["id"]: row["data"] for row in expected}
    assert cut > 0


def test_in_a_bucket(store: S3Server, make_server: Make, table: str) -> None:
    from pyarrow import fs

    server = make_server(
        data=f"s3://{BUCKET}/{table}", env={**UNLEASED, **store.environment()}
    ).start()
    lake = server.lake()
    gone = [*people(2, start=100), Person(200, LARGE)]
    lake.create("t", rows_of([*people(2), *gone]))
    indexes.build_each(server, "t", key="key")
    for person in gone:
        delete(server, "t", f"text = '{person.text}'")
    before = contents(lake, "t")
    files = store.filesystem()

    def found(pattern: bytes) -> list[str]:
        selector = fs.FileSelector(f"{BUCKET}/{table}", recursive=True)
        paths = [it.path for it in files.get_file_info(selector) if it.type == fs.FileType.File]
        return [path for path in paths if pattern in files.open_input_file(path).readall()]

    patterns = [pattern for person in gone for pattern in person.patterns().values()]
    assert all(found(pattern) for pattern in patterns)
    wait_until(lambda: purge(server, "t").status == 200, "the purge")
    assert not any(found(pattern) for pattern in patterns)
    assert contents(lake, "t") == before
    with pytest.raises(Failure):
        lake.read("t", version=1)
