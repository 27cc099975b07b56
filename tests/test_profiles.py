"""The extended profile: cells in overlays cost what they are, and everything says the same."""

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from support import duck, indexes
from support.backup import examined, ok
from support.cli import Cli
from support.data import blobs
from support.flight import Failure, Lake, command
from support.server import LakebedServer
from support.stored_files import look, written
from support.waiting import wait_until

Make = Callable[..., LakebedServer]
VARIABLE = "LANCE_ENABLE_UNSTABLE_DATA_OVERLAY_FILES"
ROWS = 10_000
WIDTH = 4


@pytest.fixture
def reads_overlays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pylance open tables with overlays."""
    monkeypatch.setenv(VARIABLE, "1")


def rows(count: int = ROWS) -> pa.Table:
    """Rows with a label, a number, a vector and a picture of 1 KB each."""
    ids = np.arange(count)
    vectors = np.repeat(ids.astype(np.float32), WIDTH)
    dice = random.Random(8)
    return blobs(
        [dice.randbytes(1_024) for _ in range(count)],
        label=pa.array([f"label {number % 7}" for number in ids]),
        score=pa.array(ids / 2),
        vector=pa.FixedSizeListArray.from_arrays(pa.array(vectors), WIDTH),
    )


def move(server: LakebedServer, table: str, profile: str, **body: Any) -> dict[str, Any]:
    path = f"/v1/table/{table}/profile"
    return server.http().ok("POST", path, {"profile": profile, **body}).json()


def shown(server: LakebedServer, table: str) -> dict[str, Any]:
    return server.http().ok("GET", f"/v1/table/{table}/show").json()


def update(server: LakebedServer, table: str, where: str, **values: str) -> dict[str, Any]:
    body = {"predicate": where, "updates": [list(pair) for pair in values.items()]}
    return server.http().ok("POST", f"/v1/table/{table}/update/", body).json()


def cells(lake: Lake, table: str, **at: Any) -> dict[int, tuple[str, float]]:
    found = lake.read(table, columns=["id", "label", "score"], **at).to_pydict()
    return {
        key: (label, score)
        for key, label, score in zip(found["id"], found["label"], found["score"], strict=True)
    }


def extended(server: LakebedServer, lake: Lake, table: str, count: int = ROWS) -> None:
    lake.create(table, rows(count))
    assert move(server, table, "extended")["profile"] == "extended"


def test_cells_cost_what_they_are(server: LakebedServer, lake: Lake, table: str) -> None:
    """An update and a partial upsert of a hundredth of a column write twice that at most; no
    picture and no other column is written, and rows keep their ids."""
    extended(server, lake, table)
    folder = server.table_path(table)
    before_rows = lake.read(table, columns=["id", "_rowid"])
    expected = cells(lake, table)
    cell_bytes = ROWS // 100 * 8

    before = look(folder / "data")
    done = update(server, table, "id % 100 = 7", score="score + 0.5")
    assert done["rows_updated"] == ROWS // 100
    [(path, size)] = written(before, look(folder / "data")).items()
    # A file of Lance has a footer and a descriptor of its column, whatever is in it.
    assert size <= 2 * cell_bytes + 1_024, path
    for key in range(7, ROWS, 100):
        expected[key] = (expected[key][0], key / 2 + 0.5)
    assert cells(lake, table) == expected

    before = look(folder / "data")
    some = list(range(13, ROWS, 100))
    sent = pa.table({"id": some, "score": pa.array([-float(key) for key in some])})
    lake.upsert(table, sent, ["id"])
    [(path, size)] = written(before, look(folder / "data")).items()
    assert size <= 2 * cell_bytes + 1_024, path
    for key in some:
        expected[key] = (expected[key][0], -float(key))
    assert cells(lake, table) == expected
    assert shown(server, table)["overlays"] == {"fragments": 1, "files": 2, "rows": 200}
    assert lake.read(table, columns=["id", "_rowid"]).equals(before_rows)


def test_folding_keeps_what_tells_when_rows_changed(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    """Scattered changes leave many stamps; overlays and their folding leave each as it is."""
    extended(server, lake, table)
    path = str(server.table_path(table))

    def stamps() -> dict[int, int]:
        columns = ["id", "_row_last_updated_at_version"]
        found = lake.read(table, columns=columns).to_pydict()
        return dict(zip(found["id"], found["_row_last_updated_at_version"], strict=True))

    expected = stamps()
    changed = {number: f"id % 20 = {number}" for number in range(5)}
    for number, where in changed.items():
        update(server, table, where, score="score + 0.5")
        version = shown(server, table)["version"]
        expected |= {key: version for key in range(ROWS) if key % 20 == number}
        # Lance notes them for each fragment in its manifest: far more than a transaction leaves in.
        assert len(set(expected.values())) == number + 2
        assert stamps() == expected
    assert move(server, table, "open")["fragments_folded"] == 1
    assert stamps() == expected
    update(server, table, "id % 20 = 7", score="-1.0")
    version = shown(server, table)["version"]
    expected |= {key: version for key in range(ROWS) if key % 20 == 7}
    assert stamps() == expected
    stored = lance.dataset(path).to_table(columns=["id", "_row_last_updated_at_version"])
    assert dict(zip(*(column.to_pylist() for column in stored), strict=True)) == expected


def test_who_opens_it(
    server: LakebedServer, lake: Lake, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Released readers open an open table, refuse one with overlays, and open it again when it is
    open again."""
    lake.create(table, rows(100))
    path = str(server.table_path(table))
    query = f"SELECT id, label, score FROM '{path}' ORDER BY id"

    def through_duck() -> list[tuple[Any, ...]]:
        with duck.connect() as connection:
            return connection.execute(query).fetchall()

    move(server, table, "extended")
    assert shown(server, table)["profile"] == "extended"
    update(server, table, "id = 3", label="'changed'")
    assert shown(server, table)["overlays"]["files"] == 1
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(Exception, match=r"(?i)feature|overlay|not supported"):
        lance.dataset(path).to_table(columns=["label"])
    with pytest.raises(Exception, match=r"(?i)feature|overlay|not supported"):
        through_duck()
    monkeypatch.setenv(VARIABLE, "1")
    found = lance.dataset(path)
    found.validate()
    assert found.to_table(columns=["label"], filter="id = 3")["label"].to_pylist() == ["changed"]
    monkeypatch.delenv(VARIABLE)

    for folded in (1, 0):
        assert move(server, table, "open")["fragments_folded"] == folded
        said = shown(server, table)
        assert (said["profile"], said["overlays"]["files"]) == ("open", 0)
    assert through_duck()[3][:2] == (3, "changed")
    assert lance.dataset(path).to_table(columns=["label"])["label"][3].as_py() == "changed"
    # What is changed from here on is readable to all.
    update(server, table, "id = 4", label="'open'")
    assert through_duck()[4][:2] == (4, "open")
    answer = server.http().post(f"/v1/table/{table}/profile", {"profile": "closed"})
    assert (answer.status, "extended" in answer.text) == (400, True)


def test_indexes_find_the_new_value(server: LakebedServer, lake: Lake, table: str) -> None:
    """A changed label or vector is found by its new value at once, and not by its old one; after
    folding and after the index was built anew, too."""
    extended(server, lake, table)
    http = server.http()
    kinds: dict[str, dict[str, Any]] = {
        "label": {"index_type": "BITMAP"},
        "score": {"index_type": "BTREE"},
        "vector": {"index_type": "IVF_FLAT", "num_partitions": 2, "distance_type": "l2"},
    }
    indexes.build(server, table, kinds)
    update(server, table, "id = 42", label="'rare'", score="-1.5")
    lake.upsert(
        table,
        pa.table(
            {
                "id": [43],
                "vector": pa.FixedSizeListArray.from_arrays(
                    pa.array([-9.0] * WIDTH, pa.float32()), WIDTH
                ),
            }
        ),
        ["id"],
    )
    assert shown(server, table)["overlays"]["files"] == 2

    def check() -> None:
        def found(where: str) -> list[int]:
            return lake.read(table, columns=["id"], filter=where)["id"].to_pylist()

        assert found("label = 'rare'") == [42]
        assert 42 not in found(f"label = 'label {42 % 7}'")
        assert (found("score = -1.5"), found("score = 21.0")) == ([42], [])
        body = {"vector": [-9.0] * WIDTH, "k": 1, "columns": ["id"]}
        nearest = http.ok("POST", f"/v1/table/{table}/query/", body).body
        assert pa.ipc.open_file(nearest).read_all()["id"].to_pylist() == [43]
        body["vector"] = [43.0] * WIDTH
        nearest = http.ok("POST", f"/v1/table/{table}/query/", {**body, "k": 3}).body
        assert 43 not in pa.ipc.open_file(nearest).read_all()["id"].to_pylist()

    check()
    assert move(server, table, "open")["fragments_folded"] == 1
    check()
    for column, kind in kinds.items():
        http.ok("POST", f"/v1/table/{table}/create_index", {"column": column, **kind})
    check()


def test_changes_name_the_cells(server: LakebedServer, lake: Lake, table: str) -> None:
    """The feed has the rows and columns that were changed, and nothing of folding."""
    extended(server, lake, table, 1_000)
    begin = shown(server, table)["version"]
    update(server, table, "id IN (5, 6)", label="'x'")
    lake.upsert(table, pa.table({"id": [6, 7], "score": [0.25, 0.5]}), ["id"])
    end = move(server, table, "open")["version"]

    def feed(since: int, to: int) -> list[tuple[str, int, list[str]]]:
        descriptor = command({"changes": {"table": table, "from": since, "to": to}})
        info = lake.client.get_flight_info(descriptor, lake.options())
        [endpoint] = info.endpoints
        found = lake.fetch(endpoint).sort_by("id").to_pylist()
        return [(row["_change"], row["id"], row["_changed_columns"]) for row in found]

    assert feed(begin, end) == [
        ("update", 5, ["label"]),
        ("update", 6, ["label", "score"]),
        ("update", 7, ["score"]),
    ]
    assert feed(end - 1, end) == []


def test_overlays_are_folded_before_they_pile_up(make_server: Make) -> None:
    """By who writes, once as much lies beside a column as is in it; by maintenance earlier."""
    server = make_server().start()
    lake = server.lake()
    extended(server, lake, "t", 1_000)
    expected = cells(lake, "t")
    most = 0
    for number in range(30):
        update(server, "t", f"id % 10 = {number % 10}", score=f"{number}.0")
        for key in range(number % 10, 1_000, 10):
            expected[key] = (expected[key][0], float(number))
        most = max(most, shown(server, "t")["overlays"]["files"])
    assert 5 <= most <= 11
    assert cells(lake, "t") == expected
    answer = server.http().ok("POST", "/v1/table/t/compact", {}).json()
    assert answer["fragments_folded"] == 1
    assert shown(server, "t")["overlays"]["files"] == 0
    assert cells(lake, "t") == expected


def test_old_versions_backups_and_purges(
    make_server: Make,
    tmp_path: Path,
    reads_overlays: None,  # noqa: ARG001
) -> None:
    """Overlays are kept, copied and deleted with the versions that name them."""
    env = {"LAKEBED_LIMITS_TICKET_TTL_MS": "1000", "LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0"}
    server = make_server(env=env).start()
    lake = server.lake()
    extended(server, lake, "t", 1_000)
    begin = shown(server, "t")["version"]
    expected = cells(lake, "t")
    update(server, "t", "id = 1", label="'first secret'")
    update(server, "t", "id = 1", label="'second secret'")
    newest = shown(server, "t")["version"]
    expected[1] = ("second secret", 0.5)
    assert cells(lake, "t", version=begin)[1] == ("label 1", 0.5)
    assert cells(lake, "t", version=newest - 1)[1] == ("first secret", 0.5)

    target = tmp_path / "copy"
    Cli(server, tmp_path).ok("backup", "--to", str(target))
    restored = tmp_path / "restored"
    ok(tmp_path, "restore", "--from", str(target), "--data", str(restored))
    examined(tmp_path, restored)
    other = make_server("other", data=restored, admin_key=server.admin_key).start()
    assert cells(other.lake(), "t") == expected
    found = lance.dataset(str(other.table_path("t")))
    found.validate()
    other.terminate()

    def cleaned() -> bool:
        path = "/v1/table/t/gc"
        body = {"keep_age_ms": 0, "keep_versions": 1}
        return server.http().ok("POST", path, body).json()["kept"] == []

    wait_until(cleaned, "the tickets are over", poll_s=0.2)
    assert cells(lake, "t") == expected

    def holds(pattern: bytes) -> bool:
        files = (path for path in server.table_path("t").rglob("*") if path.is_file())
        return any(pattern in path.read_bytes() for path in files)

    assert holds(b"second secret")
    update(server, "t", "id = 1", label="'public'")
    expected[1] = ("public", 0.5)

    def purged() -> bool:
        return server.http().post("/v1/table/t/purge", {}).status == 200

    wait_until(purged, "the tickets are over", poll_s=0.2)
    assert not holds(b"first secret")
    assert not holds(b"second secret")
    assert cells(lake, "t") == expected
    server.terminate()
    examined(tmp_path, Path(server.data))


def test_branches_meet(server: LakebedServer, lake: Lake, table: str) -> None:
    """Cells that were changed on both sides, by overlays on both, are merged."""
    extended(server, lake, table, 1_000)
    http = server.http()
    update(server, table, "id < 10", label="'before'")
    http.ok("POST", f"/v1/table/{table}/branches/create", {"name": "exp"})
    body = {"predicate": "id IN (1, 500)", "updates": [["label", "'theirs'"]], "branch": "exp"}
    http.ok("POST", f"/v1/table/{table}/update/", body)
    update(server, table, "id IN (2, 501)", label="'ours'")
    update(server, table, "id = 1", score="77.0")
    http.ok("POST", f"/v1/table/{table}/delete", {"predicate": "id = 3", "branch": "exp"})
    http.ok("POST", f"/v1/table/{table}/branches/merge", {"from_branch": "exp"})
    found = cells(lake, table)
    assert (found[1], found[500][0]) == (("theirs", 77.0), "theirs")
    assert (found[2][0], found[501][0], found[4][0]) == ("ours", "ours", "before")
    assert 3 not in found


def test_columns_change_under_overlays(server: LakebedServer, lake: Lake, table: str) -> None:
    """A column with overlays is renamed, retyped, dropped and made again; rows are moved."""
    extended(server, lake, table, 1_000)
    http = server.http()
    update(server, table, "id = 1", label="'x'", score="3.5")

    def alter(**change: Any) -> None:
        http.ok("POST", f"/v1/table/{table}/alter_columns/", {"alterations": [change]})

    alter(path="label", rename="name")
    found = lake.read(table, columns=["id", "name"], filter="name = 'x'")
    assert found["id"].to_pylist() == [1]
    lake.upsert(table, pa.table({"id": [1, 2], "score": [4.5, 5.5]}), ["id"])
    alter(path="score", data_type="float")
    assert lake.read(table, columns=["score"], filter="id = 2")["score"].to_pylist() == [5.5]
    update(server, table, "id = 2", score="6.5")
    http.ok("POST", f"/v1/table/{table}/drop_columns/", {"columns": ["name"]})
    http.ok(
        "POST",
        f"/v1/table/{table}/add_columns/",
        {"new_columns": [{"name": "name", "expression": "concat('n', cast(id as string))"}]},
    )
    found = lake.read(table, columns=["name", "score"], filter="id IN (1, 2)")
    assert found.to_pydict() == {"name": ["n1", "n2"], "score": [4.5, 6.5]}
    http.ok("POST", f"/v1/table/{table}/delete", {"predicate": "id >= 500"})
    http.ok("POST", f"/v1/table/{table}/compact", {})
    move(server, table, "open")
    assert lake.read(table, columns=["score"], filter="id = 2")["score"].to_pylist() == [6.5]
    lance.dataset(str(server.table_path(table))).validate()


def test_many_writers_beside_folding(make_server: Make, soak: bool) -> None:
    """Updates, upserts and deletes from several clients while maintenance folds and compacts: the
    end has every one of them."""
    env = {
        "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": str(1 << 30),
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
    }
    server = make_server(env=env).start()
    lake = server.lake()
    extended(server, lake, "t", 4_000)
    expected = cells(lake, "t")
    rounds = 400 if soak else 60
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")

    def work(worker: int) -> dict[int, tuple[str, float]]:
        """Each has rows of its own, so that what is expected does not depend on the order."""
        dice = random.Random(f"{seed}-{worker}")
        own = {key: cell for key, cell in expected.items() if key % 4 == worker}
        mine = server.lake()
        for number in range(rounds):
            some = dice.sample(sorted(own), dice.choice([1, 3, 40]))
            if dice.random() < 0.5:
                listed = ", ".join(map(str, some))
                update(server, "t", f"id IN ({listed})", label=f"'{worker}-{number}'")
                own |= {key: (f"{worker}-{number}", own[key][1]) for key in some}
            else:
                score = dice.random()
                mine.upsert("t", pa.table({"id": some, "score": [score] * len(some)}), ["id"])
                own |= {key: (own[key][0], score) for key in some}
        mine.close()
        return own

    with ThreadPoolExecutor(4) as pool:
        for own in pool.map(work, range(4)):
            expected |= own
    assert cells(lake, "t") == expected
    folded = server.metric("lakebed_folded_fragments_total")
    print(f"{folded:.0f} foldings, {shown(server, 't')['overlays']}")
    assert folded > 0
    pictures = lake.read("t", columns=["id", "data"], blobs="bytes").sort_by("id")["data"]
    digests = [hashlib.sha256(picture.as_py()).digest() for picture in pictures]
    assert digests == [hashlib.sha256(it.as_py()).digest() for it in rows(4_000)["data"]]
    move(server, "t", "open")
    assert cells(lake, "t") == expected
    lance.dataset(str(server.table_path("t"))).validate()


class Editor(threading.Thread):
    """Sets the scores of its own rows to the number of the change, again and again."""

    def __init__(self, server: LakebedServer, worker: int, acknowledged: int) -> None:
        super().__init__()
        self.server, self.worker = server, worker
        self.acknowledged = self.sent = acknowledged
        self.keys = list(range(worker, 1_000, 40))

    def run(self) -> None:
        lake = self.server.lake()
        with contextlib.suppress(Failure, pa.ArrowException, OSError):
            while True:
                self.sent += 1
                scores = pa.array([float(self.sent)] * len(self.keys))
                lake.upsert("t", pa.table({"id": self.keys, "score": scores}), ["id"])
                self.acknowledged = self.sent

    def found(self, cells: dict[int, tuple[str, float]]) -> int:
        """Which change the rows show, all of them the same one."""
        [score] = {cells[key][1] for key in self.keys}
        return int(score)


def test_kills_beside_folding(make_server: Make, soak: bool) -> None:
    """A change of cells is there whole or not at all, and what was acknowledged is there, wherever
    the server was killed: while it wrote overlays, folded them or compacted."""
    env = {
        "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": str(1 << 30),
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
    }
    server = make_server(env=env).start()
    extended(server, server.lake(), "t", 1_000)
    cells_before = {key: cell for key, cell in cells(server.lake(), "t").items() if key % 40 > 2}
    numbers = [0, 0, 0]
    in_flight = foldings = 0
    lake = server.lake()
    for worker in range(3):
        keys = list(range(worker, 1_000, 40))
        lake.upsert("t", pa.table({"id": keys, "score": [0.0] * len(keys)}), ["id"])
    for _ in range(50 if soak else 4):
        editors = [Editor(server, worker, number) for worker, number in enumerate(numbers)]
        for editor in editors:
            editor.start()
        time.sleep(random.uniform(0.4, 0.9))
        foldings += int(server.metric("lakebed_folded_fragments_total"))
        server.kill()
        for editor in editors:
            editor.join()
        server.start()
        found = cells(server.lake(), "t")
        for editor in editors:
            shown_number = editor.found(found)
            assert shown_number in {editor.acknowledged, editor.sent}, editor.worker
            in_flight += editor.sent > editor.acknowledged
            numbers[editor.worker] = shown_number
        assert {key: found[key] for key in cells_before} == cells_before
    print(f"{in_flight} changes were in flight, {foldings} foldings before the kills, {numbers}")
    assert in_flight > 0
    assert min(numbers) > 0
    move(server, "t", "open")
    assert [cells(server.lake(), "t")[worker][1] for worker in range(3)] == numbers
    lance.dataset(str(server.table_path("t"))).validate()
    server.terminate()
    examined(server.work, Path(server.data))


def test_on_the_command_line(server: LakebedServer, lake: Lake, table: str, tmp_path: Path) -> None:
    cli = Cli(server, tmp_path)
    lake.create(table, rows(100))
    assert "the table is extended" in cli.ok("profile", table, "extended")
    update(server, table, "id = 3", label="'x'")
    assert "extended" in cli.ok("show", table)
    assert "the overlays of 1 fragments are folded" in cli.ok("profile", table, "open")
    said = json.loads(cli.ok("profile", table, "open", "--format", "json"))
    assert (said["profile"], said["fragments_folded"]) == ("open", 0)
