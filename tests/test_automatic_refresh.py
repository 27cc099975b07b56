"""Columns that refresh themselves, and columns that SQL declares as computed."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import lancedb
import pyarrow as pa
import pytest
from lancedb import udf

import lakebed
from support.cli import Cli
from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until
from support.worker import Jobs, Worker

SOON = timedelta(seconds=60)
KEY = "lakebed:auto_refresh_seconds"


@udf
def doubled(value: int) -> Annotated[int, pa.int64()]:
    if value < 0:
        raise ValueError("below zero")
    return value * 2


@udf
class longer:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, text: str) -> Annotated[int, pa.int64()]:
        return len(text) + self.by


@udf
class doubled_once_told:
    """Doubles when a file is there, and waits for it before."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, value: int) -> Annotated[int, pa.int64()]:
        import os
        import time

        while not os.path.exists(self.path):
            time.sleep(0.01)
        return value * 2


@pytest.fixture(scope="module")
def workers(module_server: LakebedServer) -> Iterator[None]:
    """Two workers."""
    made = [Worker(module_server, name).start() for name in ("r1", "r2")]
    Jobs(module_server).wait_for_workers(2)
    yield
    for worker in made:
        worker.kill()


@pytest.fixture
def db(server: LakebedServer) -> lancedb.DBConnection:
    """The stock client."""
    address = f"http://{server.http_address}"
    return lancedb.connect("db://default", api_key=server.admin_key, host_override=address)


@pytest.fixture
def numbers(db: lancedb.DBConnection, table: str) -> Any:
    """Three rows."""
    rows = {"id": [1, 2, 3], "value": [10, 20, 30], "text": ["a", "bb", "ccc"]}
    return db.create_table(table, pa.table(rows))


def column_of(lake: Lake, table: Any, column: str) -> list[Any]:
    rows = lake.read(table.name).sort_by("id").to_pylist()
    return [row[column] for row in rows]


def comes_to_be(lake: Lake, table: Any, column: str, values: list[Any]) -> None:
    wait_until(lambda: column_of(lake, table, column) == values, f"{column} is {values}", 60)


def jobs_of(server: LakebedServer, table: Any) -> list[dict[str, Any]]:
    jobs = server.http().ok("POST", "/v1/jobs/list", {}).json()["jobs"]
    return [job for job in jobs if job["table"] == table.name]


def comes_to_rest(server: LakebedServer, table: Any) -> int:
    """Waits until all jobs of a table have ended; how many there were."""

    def all_ended() -> bool:
        return all(job["state"] not in {"IN_PROGRESS", "PAUSED"} for job in jobs_of(server, table))

    wait_until(all_ended, "the jobs end", 60)
    return len(jobs_of(server, table))


@pytest.mark.usefixtures("workers")
def test_a_column_of_a_function_refreshes_itself(
    db: lancedb.DBConnection, server: LakebedServer, lake: Lake, sql: Sql, numbers: Any
) -> None:
    db.create_function(doubled)
    name = numbers.name
    sql.change(f'ALTER TABLE "{name}" ADD COLUMN twice AS doubled(value) AUTO REFRESH')
    comes_to_be(lake, numbers, "twice", [20, 40, 60])
    numbers.add(pa.table({"id": [4, 5], "value": [-1, 50], "text": ["d", "e"]}))
    comes_to_be(lake, numbers, "twice", [20, 40, 60, None, 100])
    numbers.update(where="id = 2", values={"value": 7})
    comes_to_be(lake, numbers, "twice", [20, 14, 60, None, 100])
    # What failed is not tried again, and what nothing reads begins nothing.
    began = comes_to_rest(server, numbers)
    numbers.update(where="id = 1", values={"text": "other"})
    numbers.add(pa.table({"id": [6], "value": [1], "text": ["f"]}))
    comes_to_be(lake, numbers, "twice", [20, 14, 60, None, 100, 2])
    assert comes_to_rest(server, numbers) == began + 1
    numbers.update(where="id = 4", values={"value": 4})
    comes_to_be(lake, numbers, "twice", [20, 14, 60, 8, 100, 2])


def test_a_column_of_sql_refreshes_itself(
    server: LakebedServer, lake: Lake, sql: Sql, numbers: Any
) -> None:
    sql.change(f'ALTER TABLE "{numbers.name}" ADD COLUMN more AS value + length(text) AUTO REFRESH')
    comes_to_be(lake, numbers, "more", [11, 22, 33])
    numbers.update(where="id = 2", values={"text": "bbbb"})
    comes_to_be(lake, numbers, "more", [11, 24, 33])
    began = comes_to_rest(server, numbers)
    numbers.add(pa.table({"id": [4], "value": [1], "text": [""]}))
    comes_to_be(lake, numbers, "more", [11, 24, 33, 1])
    assert comes_to_rest(server, numbers) == began + 1


def test_it_is_switched_on_and_off_by_what_the_column_says(
    server: LakebedServer, lake: Lake, sql: Sql, numbers: Any
) -> None:
    sql.change(f'ALTER TABLE "{numbers.name}" ADD COLUMN more AS value + 1')
    path = f"/v1/table/{numbers.name}/update_field_metadata/"

    def say(value: str | None) -> Any:
        update = {"path": "more", "metadata": {KEY: value}}
        return server.http().post(path, {"updates": [update]})

    answer = say("often")
    assert (answer.status, KEY in answer.text) == (400, True), answer.text
    assert column_of(lake, numbers, "more") == [None] * 3
    assert say("1").status == 200
    comes_to_be(lake, numbers, "more", [11, 21, 31])
    assert say(None).status == 200
    comes_to_rest(server, numbers)
    numbers.add(pa.table({"id": [4], "value": [1], "text": [""]}))
    sql.change(f"CALL refresh('{numbers.name}', 'more')")
    comes_to_be(lake, numbers, "more", [11, 21, 31, 2])


def test_the_routes_of_the_clients_say_it(server: LakebedServer, lake: Lake, numbers: Any) -> None:
    path = f"/v1/table/{numbers.name}/add_columns/"
    column = {"name": "more", "computed": "value + 1"}

    def add(**fields: Any) -> Any:
        return server.http().post(path, {"new_columns": [column], **fields})

    for fields in (
        {"auto_refresh_interval_seconds": 5},
        {"auto_refresh_enabled": False, "auto_refresh_interval_seconds": 5},
        {"auto_refresh_enabled": True, "auto_refresh_interval_seconds": 0},
    ):
        answer = add(**fields)
        assert (answer.status, "auto_refresh_interval_seconds" in answer.text) == (400, True)
    assert add(auto_refresh_enabled=True, auto_refresh_interval_seconds=1).status == 200
    comes_to_be(lake, numbers, "more", [11, 21, 31])


@pytest.mark.usefixtures("workers")
def test_sql_calls_a_registered_function(
    db: lancedb.DBConnection, lake: Lake, sql: Sql, numbers: Any
) -> None:
    db.create_function(longer)
    name = numbers.name
    sql.change(f'ALTER TABLE "{name}" ADD COLUMN n AS longer(text, by => 5)')
    assert column_of(lake, numbers, "n") == [None] * 3
    # The client looks at every binding of the schema before it adds rows.
    numbers.add(pa.table({"id": [4], "value": [1], "text": [""]}))
    assert numbers.refresh_column_async("n").wait(SOON).rows_assigned == 4
    assert column_of(lake, numbers, "n") == [6, 7, 8, 5]
    # The schema says more by now, and a call over it is still the same.
    counted = f'SELECT longer(text, 5) AS n, count(*) AS c FROM "{name}" GROUP BY 1 ORDER BY n'
    assert sql.rows(counted) == [{"n": n, "c": 1} for n in (5, 6, 7, 8)]
    sql.change(f'ALTER TABLE "{name}" ADD COLUMN o AS longer(text, 7)')
    assert numbers.refresh_column_async("o").wait(SOON).rows_assigned == 4
    assert column_of(lake, numbers, "o") == [8, 9, 10, 7]
    numbers.drop_columns(["o"])
    sql.change(f'ALTER TABLE "{name}" ADD COLUMN more AS value + 1 AUTO REFRESH EVERY 9 SECONDS')
    told = sql.rows(f"SELECT * FROM lineage('{name}') ORDER BY \"column\" DESC")
    assert [(row["column"], row["kind"], row["name"], row["inputs"]) for row in told] == [
        ("n", "function", "longer", ["text"]),
        ("more", "sql", "`value` + 1", ["value"]),
    ]
    assert (told[0]["version"], told[0]["refresh_seconds"]) == (1, None)
    assert told[0]["digest"].startswith("sha256:")
    assert told[0]["source_version"] > 1
    assert told[0]["job_id"]
    assert (told[1]["refresh_seconds"], told[1]["digest"]) == (9, None)

    def refused(statement: str, words: str) -> None:
        with pytest.raises(Exception, match=words):
            sql.change(statement.replace("TABLE t", f'TABLE "{name}"'))

    refused("ALTER TABLE t ADD COLUMN m AS longer(text)", "constant `by` is missing")
    refused("ALTER TABLE t ADD COLUMN m AS longer(text, 5, 6)", "takes text, by")
    refused("ALTER TABLE t ADD COLUMN m AS longer('x', 5)", "is not given a column")
    refused("ALTER TABLE t ADD COLUMN m AS embed('a', text)", "jobs submit")
    refused("ALTER TABLE t ADD COLUMN m AS longer(txet, by => 5)", "txet")
    refused("ALTER TABLE t ADD COLUMN m AS longer(value, by => 5)", "takes utf8")
    refused("ALTER TABLE t ADD COLUMN m AS longer(text, value, by => 5)", "no parameter")
    refused("ALTER TABLE t ADD COLUMN m AS langer(text)", "langer")


def test_a_column_that_sql_reads_stays(lake: Lake, sql: Sql, numbers: Any) -> None:
    sql.change(f'ALTER TABLE "{numbers.name}" ADD COLUMN more AS value + 1')
    with pytest.raises(Exception, match="is read by computed column `more`"):
        numbers.drop_columns(["value"])
    with pytest.raises(Exception, match="is read by computed column `more`"):
        numbers.alter_columns({"path": "value", "rename": "worth"})
    numbers.drop_columns(["value", "more"])
    assert lake.read(numbers.name).column_names == ["id", "text"]


@pytest.mark.usefixtures("workers")
def test_a_refresh_covers_what_came_while_it_waited(
    db: lancedb.DBConnection, server: LakebedServer, lake: Lake, numbers: Any, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    twice = db.create_function(doubled_once_told)
    numbers.add_columns({"twice": twice(value=lancedb.col("value"), path=str(told))})
    path = f"/v1/table/{numbers.name}/backfill_column"
    jobs = Jobs(server)

    def refresh() -> str:
        return server.http().ok("POST", path, {"column": "twice"}).json()["job_id"]

    first = refresh()
    assert refresh() == first, "nothing came since"
    numbers.add(pa.table({"id": [4], "value": [4], "text": ["d"]}))
    second = refresh()
    assert second != first
    numbers.add(pa.table({"id": [5], "value": [5], "text": ["e"]}))
    assert refresh() == second, "it has not begun, and will see the new row"
    told.touch()
    assert jobs.wait(first)["result"]["rows_failed"] == 0
    jobs.wait(second)
    assert column_of(lake, numbers, "twice") == [20, 40, 60, 8, 10]


def test_a_column_is_refreshed_from_the_shell_and_from_python(
    server: LakebedServer, lake: Lake, sql: Sql, numbers: Any, tmp_path: Path
) -> None:
    sql.change(f'ALTER TABLE "{numbers.name}" ADD COLUMN more AS value + 1')
    told = Cli(server, tmp_path).ok("jobs", "refresh", "--table", numbers.name, "--column", "more")
    Jobs(server).wait(told.strip())
    assert column_of(lake, numbers, "more") == [11, 21, 31]
    numbers.update(where="id = 1", values={"value": 0})
    with lakebed.connect(f"http://{server.http_address}", api_key=server.admin_key) as mine:
        assert mine.jobs.refresh(numbers.name, "more").wait(60).state == "DONE"
    assert column_of(lake, numbers, "more") == [1, 21, 31]
