"""Requests that a careless server of the LanceDB protocol answers wrongly without saying so."""

import io
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from support.http import Response
from support.server import LakebedServer
from support.waiting import wait_until

ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
WIDTH = 8


def rows(first: int, count: int) -> pa.Table:
    dice = np.random.default_rng(first)
    vectors = dice.random(count * WIDTH, dtype=np.float32)
    return pa.table(
        {
            "id": pa.array(range(first, first + count), pa.int64()),
            "text": [f"word{number} here" for number in range(first, first + count)],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), WIDTH),
        }
    )


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


class Rest:
    """Raw requests about one table, as the SDKs write them."""

    def __init__(self, server: LakebedServer, table: str) -> None:
        self.http = server.http()
        self.table = table

    def post(self, verb: str, body: Any = None) -> Response:
        return self.http.post(f"/v1/table/{self.table}/{verb}", body)

    def send(self, verb: str, table: pa.Table) -> Response:
        path = f"/v1/table/{self.table}/{verb}"
        return self.http.request("POST", path, stream(table), ARROW)

    def count(self, **body: Any) -> int:
        return self.post("count_rows/", body).json()


@pytest.fixture
def rest(server: LakebedServer, table: str) -> Rest:
    """A table of 600 rows."""
    rest = Rest(server, table)
    assert rest.send("create/", rows(0, 600)).status == 200
    return rest


def test_a_branch_is_never_main(rest: Rest, server: LakebedServer) -> None:
    for answer in [
        rest.send("insert/?branch=exp", rows(600, 10)),
        rest.send("merge_insert/?branch=exp&on=id&when_matched_update_all=true", rows(0, 1)),
        rest.post("delete/", {"predicate": "id < 10", "branch": "exp"}),
        rest.post("update/", {"updates": [["text", "'x'"]], "branch": "exp"}),
        rest.post("query/", {"k": 3, "vector": [], "branch": "exp"}),
        rest.post("count_rows/", {"branch": "exp"}),
        rest.post("describe/", {"branch": "exp"}),
        rest.post("create_index/", {"column": "id", "index_type": "BTREE", "branch": "exp"}),
        rest.post("drop_columns/", {"columns": ["text"], "branch": "exp"}),
    ]:
        assert answer.status == 404, answer.text
        assert answer.json()["code"] == 22, "the branch is what is missing"
    assert rest.count() == 600

    # Another tool makes the branch.
    lance.dataset(str(server.table_path(rest.table))).create_branch("exp")
    assert rest.send("insert/?branch=exp", rows(600, 10)).status == 200
    deleted = rest.post("delete/", {"predicate": "id < 5", "branch": "exp"})
    assert deleted.json()["num_deleted_rows"] == 5
    updated = rest.post("update/", {"updates": [["text", "'x'"]], "branch": "exp"})
    assert updated.json()["rows_updated"] == 605
    merged = rest.send("merge_insert/?branch=exp&on=id&when_matched_update_all=true", rows(9, 1))
    assert merged.json()["num_updated_rows"] == 1
    assert (rest.count(), rest.count(branch="exp")) == (600, 605)
    assert (
        rest.count(predicate="text = 'x'"),
        rest.count(branch="exp", predicate="text = 'x'"),
    ) == (
        0,
        604,
    )


def test_a_part_of_a_write_is_invisible(rest: Rest) -> None:
    upload = rest.post("multipart_write/create").json()["upload_id"]
    part = f"insert/?upload_id={upload}&upload_part_id="
    for number in range(3):
        assert rest.send(f"{part}p{number}", rows(600 + number * 10, 10)).status == 200
    # The same part again counts once.
    assert rest.send(f"{part}p0", rows(600, 10)).status == 200
    assert rest.count() == 600
    completed = [rest.post(f"multipart_write/complete?upload_id={upload}") for _ in range(2)]
    assert {answer.json()["version"] for answer in completed} == {2}
    assert rest.count() == 630
    late = rest.send(f"{part}p9", rows(900, 10))
    assert late.status == 400
    thrown = rest.post("multipart_write/create").json()["upload_id"]
    rest.send(f"insert/?upload_id={thrown}&upload_part_id=x", rows(700, 10))
    assert rest.post(f"multipart_write/abort?upload_id={thrown}").status == 200
    assert rest.post(f"multipart_write/complete?upload_id={thrown}").status == 400
    # An upload belongs to the branch that it was begun on.
    other = rest.post("multipart_write/create").json()["upload_id"]
    elsewhere = f"upload_id={other}&branch=exp"
    for answer in [
        rest.send(f"insert/?{elsewhere}&upload_part_id=x", rows(700, 10)),
        rest.post(f"multipart_write/complete?{elsewhere}"),
        rest.post(f"multipart_write/abort?{elsewhere}"),
    ]:
        assert answer.status == 400, answer.text
        assert "branch `main`" in answer.json()["error"]
    assert rest.count() == 630


def test_parts_that_overwrite(rest: Rest) -> None:
    upload = rest.post("multipart_write/create").json()["upload_id"]
    for number in range(2):
        part = f"insert/?upload_id={upload}&upload_part_id=p{number}&mode=overwrite"
        assert rest.send(part, rows(number * 10, 10)).status == 200
    assert rest.count() == 600
    assert rest.post(f"multipart_write/complete?upload_id={upload}").json()["version"] == 2
    assert rest.count() == 20
    mixed = rest.post("multipart_write/create").json()["upload_id"]
    for number, mode in enumerate(["", "&mode=overwrite"]):
        part = f"insert/?upload_id={mixed}&upload_part_id=p{number}{mode}"
        assert rest.send(part, rows(number * 10, 10)).status == 200
    assert rest.post(f"multipart_write/complete?upload_id={mixed}").status == 400
    assert rest.count() == 20


def test_a_text_query_is_not_passed_over(rest: Rest) -> None:
    job = rest.post("create_index/", {"column": "text", "index_type": "FTS"}).json()["job_id"]
    wait_for(rest, job)
    for query, hits in [("word7", 1), ("nowhere", 0)]:
        match = {"match": {"column": None, "terms": query, "boost": 1.0, "fuzziness": 0}}
        body = {"k": 10, "vector": [], "full_text_query": {"query": match}}
        answer = rest.post("query/", body)
        assert pa.ipc.open_file(answer.body).read_all().num_rows == hits
    misspelt = {"match": {"column": "text", "terms": "word7", "fuzzines": 1}}
    answer = rest.post("query/", {"k": 3, "vector": [], "full_text_query": {"query": misspelt}})
    assert answer.status == 400
    assert "fuzzines" in answer.text


def test_an_index_is_built_as_it_was_asked_for(rest: Rest, server: LakebedServer) -> None:
    body = {
        "column": "vector",
        "index_type": "IVF_PQ",
        "metric_type": "cosine",
        "num_partitions": 7,
        "num_sub_vectors": 4,
        "num_bits": 8,
        "sample_rate": 256,
        "max_iterations": 50,
    }
    # Fewer rows would make fewer partitions.
    assert rest.send("insert/", rows(600, 2_000)).status == 200
    # Twice: leaving `replace` out means replacing.
    for _ in range(2):
        wait_for(rest, rest.post("create_index/", body).json()["job_id"])
    stats = lance.dataset(str(server.table_path(rest.table))).stats.index_stats("vector_idx")
    [index] = stats["indices"]
    assert stats["index_type"] == "IVF_PQ"
    assert index["metric_type"] == "cosine"
    assert index["num_partitions"] == 7
    assert index["sub_index"]["num_sub_vectors"] == 4
    kept = rest.post("create_index/", {**body, "replace": False})
    assert (kept.status, "already exists" in kept.text) == (400, True)


def test_a_merge_does_only_what_it_says(rest: Rest) -> None:
    merged = rest.send("merge_insert/?on=id&when_matched_update_all=true", rows(590, 20)).json()
    assert (merged["num_updated_rows"], merged["num_inserted_rows"]) == (10, 0)
    assert rest.count() == 600
    nothing = rest.send("merge_insert/?on=id", rows(0, 1))
    assert nothing.status == 400
    misspelt = rest.send("merge_insert/?on=id&when_matched_updateall=true", rows(0, 1))
    assert misspelt.status == 400
    assert "when_matched_updateall" in misspelt.text


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("query/", {"k": 1, "vector": [], "filter": "id = = 1"}),
        ("query/", {"k": 1, "vector": [], "filter": "nothing = 1"}),
        ("query/", {"k": 1, "vector": [], "columns": ["nothing"]}),
        ("query/", {"k": 1, "vector": [1.0]}),
        ("query/", {"k": 1, "vector": [0.0] * WIDTH, "vector_column": "nothing"}),
        ("query/", {"k": 1, "vector": [], "order_by": [{"column_name": "nothing"}]}),
        ("query/", {"k": 1, "vector": [], "misspelt": 1}),
        ("query/", {"k": 1, "vector": [], "nprobes": 3}),
        ("query/", {"k": 1, "vector": [], "distance_type": "cosine"}),
        ("query/", {"k": 1, "vector": [], "vector_column": "vector"}),
        ("query/", {"k": 2**21, "vector": [0.0] * WIDTH}),
        ("query/", {"k": 600, "vector": [[0.0] * WIDTH] * 2_000}),
        ("count_rows/", {"predicate": "nothing = 1"}),
        ("delete/", {"predicate": "nothing = 1"}),
        ("update/", {"predicate": "nothing = 1", "updates": [["text", "'x'"]]}),
        ("update/", {"updates": [["nothing", "1"]]}),
        ("update/", {"updates": [["id", "upper("]]}),
        ("drop_columns/", {"columns": ["nothing"]}),
        ("alter_columns/", {"alterations": [{"path": "nothing", "rename": "x"}]}),
        ("add_columns/", {"new_columns": [{"name": "x", "expression": "nothing + 1"}]}),
        ("create_index/", {"column": "nothing", "index_type": "BTREE"}),
        ("create_index/", {"column": "text", "index_type": "IVF_PQ"}),
        ("fetch_blobs/", {"column": "text", "row_ids": [0]}),
        ("restore/", {"version": None}),
    ],
)
def test_a_mistake_is_the_clients(rest: Rest, verb: str, body: dict[str, Any]) -> None:
    """A 5xx or a 409 would be tried again, and a 404 read as a missing table."""
    answer = rest.post(verb, body)
    assert answer.status == 400, answer.text
    assert rest.count() == 600


def test_nothing_else_says_where_the_lake_lies(rest: Rest, server: LakebedServer) -> None:
    """Only what clients ask to read the files by themselves."""
    place = str(server.data).strip("/")
    described = rest.http.post(
        f"/v1/table/{rest.table}/describe?load_detailed_metadata=true&with_table_uri=true"
        "&vend_credentials=true",
        {},
    )
    plan = {"verbose": True, "query": {"k": 1, "vector": [], "filter": "id > 3"}}
    for answer in [
        described,
        rest.post("explain_plan/", plan),
        rest.post("analyze_plan/", plan["query"]),
        rest.post("tags/list/"),
        rest.post("stats/"),
        rest.post("describe/", {"version": 99}),
        rest.post("query/", {"k": 1, "vector": [], "filter": "nothing = 1"}),
    ]:
        assert place not in answer.text
    assert not described.json().get("storage_options")


def test_statistics_count_the_rows_that_are_there(rest: Rest) -> None:
    assert rest.post("delete/", {"predicate": "id < 100"}).json()["num_deleted_rows"] == 100
    stats = rest.post("stats/").json()
    assert stats["num_rows"] == 500
    assert stats["fragment_stats"]["num_fragments"] == 1


def wait_for(rest: Rest, job: str) -> None:
    """Waits for a job to be done."""

    def ended() -> dict[str, Any] | None:
        described = rest.http.post("/v1/jobs/describe", {"job_id": job}).json()
        return None if described["job_state"] == "IN_PROGRESS" else described

    described = wait_until(ended, f"the end of job {job}", poll_s=0.05)
    assert described["job_state"] == "DONE", described
