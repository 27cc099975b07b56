"""Ray with lance-ray: tables of the server by name, read and written by a cluster of one CPU."""

import os
from collections.abc import Iterator
from typing import Any

# Read when ray is imported: nothing is reported home, and no token is left in the home folder.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")

import lance_ray
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from support.data import numbered
from support.flight import Lake
from support.ray_cluster import local_cluster
from support.server import LakebedServer
from support.waiting import wait_until

ROWS = 1_000


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_cluster(1):
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield


@pytest.fixture
def named(server: LakebedServer, table: str) -> dict[str, Any]:
    """How a table of a namespace is named to lance-ray."""
    return {
        "namespace_impl": "rest",
        "namespace_properties": {
            "uri": f"http://{server.http_address}",
            "header.x-api-key": server.admin_key,
        },
        "table_id": ["ray", table],
    }


def rows(count: int, start: int = 0) -> ray.data.Dataset:
    return ray.data.from_arrow(numbered(count, start=start))


def seen(lake: Lake, table: str, count: int) -> None:
    wait_until(lambda: lake.count(table) == count, "the rows of another writer")


def test_reading(lake: Lake, table: str, named: dict[str, Any]) -> None:
    lake.create(f"ray${table}", numbered(ROWS))
    lake.write(f"ray${table}", numbered(5, start=ROWS))
    assert lance_ray.read_lance(**named).count() == ROWS + 5
    found = lance_ray.read_lance(columns=["id"], filter="id < 3", **named).take_all()
    assert sorted(row["id"] for row in found) == [0, 1, 2]
    assert lance_ray.read_lance(dataset_options={"version": 1}, **named).count() == ROWS
    with pytest.raises(Exception, match="does not exist"):
        lance_ray.read_lance(**{**named, "table_id": ["ray", "nothing"]})


def test_writing(lake: Lake, table: str, named: dict[str, Any]) -> None:
    lance_ray.write_lance(rows(ROWS), **named)
    assert lake.read(f"ray${table}").sort_by("id").equals(numbered(ROWS))
    with pytest.raises(Exception, match="already exists"):
        lance_ray.write_lance(rows(1), **named)
    lance_ray.write_lance(rows(10, start=ROWS), mode="append", **named)
    seen(lake, f"ray${table}", ROWS + 10)
    lake.write(f"ray${table}", numbered(1, start=ROWS + 10))
    assert lance_ray.read_lance(**named).count() == ROWS + 11
    lance_ray.write_lance(rows(3), mode="overwrite", **named)
    seen(lake, f"ray${table}", 3)


def test_columns(lake: Lake, table: str, named: dict[str, Any]) -> None:
    lake.create(f"ray${table}", numbered(ROWS))
    lance_ray.add_columns(transform={"twice": "id * 2"}, concurrency=1, **named)

    def thrice(batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch([pc.multiply(batch["id"], 3)], ["thrice"])

    lance_ray.add_columns(transform=thrice, read_columns=["id"], concurrency=1, **named)
    wait_until(lambda: "thrice" in lake.read(f"ray${table}").column_names, "another's columns")
    assert lake.count(f"ray${table}", filter="twice = id * 2 AND thrice = id * 3") == ROWS


def test_indexes_and_compaction(
    server: LakebedServer, lake: Lake, table: str, named: dict[str, Any]
) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array([float(number % 97) for number in range(ROWS * 8)], pa.float32()), 8
    )
    lake.create(f"ray${table}", numbered(ROWS, vector=vectors))
    lake.write(f"ray${table}", numbered(1, start=ROWS))
    lance_ray.create_scalar_index(column="id", index_type="BTREE", num_workers=1, **named)
    lance_ray.create_index(
        column="vector", index_type="IVF_FLAT", num_workers=1, num_partitions=2, **named
    )
    lance_ray.compact_files(num_workers=1, **named)

    def indexes() -> dict[str, str]:
        answer = server.http().ok("POST", f"/v1/table/ray${table}/index/list", {}).json()
        return {index["index_name"]: index["index_type"] for index in answer["indexes"]}

    wait_until(lambda: len(indexes()) == 2, "the indexes of another writer")
    assert indexes() == {"id_idx": "BTREE", "vector_idx": "IVF_FLAT"}
    nearest = {"column": "vector", "q": [0.0] * 8, "k": 3}
    found = lance_ray.vector_search(nearest=nearest, columns=["id"], num_workers=1, **named)
    assert found.num_rows == 3
    assert lake.count(f"ray${table}", filter="id >= 990") == 11


def test_by_the_location_that_describe_gives(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, numbered(ROWS))
    described = server.http().ok("POST", f"/v1/table/{table}/describe/").json()
    assert lance_ray.read_lance(described["location"]).count() == ROWS
