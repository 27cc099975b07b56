"""What helps people who search by text, with the real server: marks in what was found, counts by
value, words that were meant, weights of joined searches, and functions that put rows in order."""

import asyncio
import collections
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lancedb import udf

import lakebed
from lakebed import errors
from support import readme
from support.cli import Cli
from support.indexes import build
from support.lancedb import connect as connect_lancedb
from support.server import LakebedServer
from support.sql import Sql
from support.texts import SYLLABLES
from support.worker import Jobs, Worker

ROWS = 3_000
WIDTH = 8
# A text index as LanceDB's client makes it, and one with words as they are written.
STEMS = {"index_type": "FTS", "with_position": True, "stem": True, "remove_stop_words": True}
PLAIN = {
    "index_type": "FTS",
    "with_position": True,
    "stem": False,
    "remove_stop_words": False,
    "ascii_folding": False,
}
ENGLISH = [
    "bridge",
    "bridges",
    "bridging",
    "river",
    "rivers",
    "running",
    "runs",
    "ran",
    "café",
    "cafe",
    "Cafés",
    "happy",
    "happiness",
    "street",
    "streets",
    "street's",
    "the",
    "of",
    "a",
    "car",
    "cars",
    "traffic",
    "light",
    "lights",
    "lighting",
    "over",
    "under",
    "painted",
    "painting",
]


@udf
def overlap(query: str, caption: str) -> float:
    return float(len(set(query.split()) & set(caption.lower().split())))


@udf
def key_of(number: int) -> float:
    return float("nan") if number % 7 == 0 else float(number)


@udf
def shouting(caption: str) -> str:
    return caption.upper()


def sentences(rows: int, seed: int = 1) -> list[str]:
    """Texts of English words in several forms among made-up ones."""
    dice = np.random.default_rng(seed)
    made = ["".join(dice.choice(SYLLABLES, dice.integers(2, 5))) for _ in range(400)]
    found = []
    for _ in range(rows):
        length = int(dice.integers(4, 60))
        words = [
            str(dice.choice(ENGLISH)) if dice.random() < 0.15 else made[int(dice.integers(400))]
            for _ in range(length)
        ]
        if dice.random() < 0.02:
            words += ["the", "river"]
        found.append(" ".join(words) + str(dice.choice([".", "!", ", (and) more."])))
    return found


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return sentences(ROWS)


@pytest.fixture(scope="module")
def shared(module_server: LakebedServer, texts: list[str]) -> str:
    """A table with an index of stems on `caption` and one of plain words on `title`; the last
    rows are in no index."""
    dice = np.random.default_rng(2)
    rows = pa.table(
        {
            "id": range(ROWS),
            "caption": texts,
            "title": texts[::-1],
            "label": dice.integers(0, 5, ROWS).tolist(),
            "tags": [["a", "b"] if n % 2 else ["a"] for n in range(ROWS)],
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(dice.random(ROWS * WIDTH, dtype=np.float32)), WIDTH
            ),
        }
    )
    db = connect(module_server)
    table = db.create_table("texts", rows.slice(0, ROWS - 100))
    build(module_server, "texts", {"caption": STEMS, "title": PLAIN})
    table.add(rows.slice(ROWS - 100))
    db.close()
    return "texts"


def connect(server: LakebedServer) -> Any:
    """A connection of Lakebed's own package."""
    return lakebed.connect(f"http://{server.http_address}", server.admin_key)


@pytest.fixture
def found_in(server: LakebedServer, shared: str) -> Iterator[Any]:
    with connect(server) as db:
        yield db.table(shared)


@pytest.fixture
def cli(server: LakebedServer, tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(server, home)


def fragments(row: dict[str, Any]) -> list[str]:
    return [item["fragment"] for item in row["_highlights"]]


def marked(row: dict[str, Any]) -> list[str]:
    return [word for text in fragments(row) for word in re.findall(r"<b>(.*?)</b>", text)]


# ---- highlights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "query", "shown"),
    [
        ("caption", "bridge", {"bridge", "bridges", "bridging"}),
        ("caption", "running the cafe", {"running", "runs", "café", "cafe", "Cafés"}),
        ("title", "bridge", {"bridge"}),
        ("title", "café the", {"café", "the"}),
        ("title", "CAFÉS", {"Cafés"}),
    ],
)
def test_every_hit_has_a_mark_and_no_other_row_would(
    found_in: Any,
    texts: list[str],
    column: str,
    query: str,
    shown: set[str],
) -> None:
    hits = found_in.search(
        words=query,
        column=column,
        k=ROWS,
        columns=["id"],
        highlight={"fragments": 20, "fragment_chars": 10_000},
    ).to_list()
    assert all(marked(row) for row in hits)
    words = collections.Counter(word for row in hits for word in marked(row))
    assert set(words) == shown
    # The marked words, looked for without any index, are in the hits and in no other row.
    stored = texts if column == "caption" else texts[::-1]
    split = [set(re.findall(r"\w+", text)) for text in stored]
    has = {row for row in range(ROWS) if split[row] & shown}
    assert {row["id"] for row in hits} == has
    assert any(row["id"] >= ROWS - 100 for row in hits), "rows outside of the index are marked too"
    for row in hits:
        assert re.sub(r"</?b>", "", fragments(row)[0]) == stored[row["id"]]


def test_structured_queries(found_in: Any) -> None:
    def hits(query: dict[str, Any], **highlight: Any) -> list[dict[str, Any]]:
        searched = found_in.search(words=query, k=50, columns=["id"], highlight=highlight or True)
        rows: list[dict[str, Any]] = searched.to_list()
        return rows

    def match(column: str, terms: str, **more: Any) -> dict[str, Any]:
        return {"match": {"column": column, "terms": terms, "fuzziness": 0, **more}}

    both = {"must": [match("caption", "bridge")], "must_not": [match("caption", "happy")]}
    rows = hits({"boolean": {**both, "should": []}}, fragment_chars=10_000)
    assert rows
    assert all(set(marked(row)) <= {"bridge", "bridges", "bridging"} for row in rows)
    rows = hits(match("title", "brigde", fuzziness=2))
    assert rows
    assert {word for row in rows for word in marked(row)} >= {"bridge"}
    rows = hits(match("title", "brxdge", fuzziness=1, prefix_length=2), fragment_chars=10_000)
    assert {word for row in rows for word in marked(row)} == {"bridge"}
    phrase = {"phrase": {"column": "title", "terms": "the river"}}
    rows = hits(phrase, fragment_chars=10_000)
    assert rows
    for row in rows:
        assert "<b>the</b> <b>river</b>" in fragments(row)[0]
        assert len(marked(row)) == 2 * len(re.findall("<b>the</b> <b>river</b>", fragments(row)[0]))
    several = {"multi_match": {"query": "river", "columns": ["caption", "title"]}}
    rows = hits(several)
    assert {item["column"] for row in rows for item in row["_highlights"]} == {"caption", "title"}
    boost = {"positive": match("title", "river"), "negative": match("title", "the")}
    rows = hits({"boost": boost})
    assert rows
    assert {word for row in rows for word in marked(row)} == {"river"}


def test_fragments_are_cut_and_escaped(server: LakebedServer, table: str) -> None:
    long = "nothing here " * 40 + "<i>a red & fast car</i> stands " + "nothing here " * 40
    with connect(server) as db:
        made = db.create_table(table, {"t": [long, "red", None], "tags": [["a red"], [], None]})
        build(server, table, {"t": PLAIN})
        hits = made.search(words="red car", highlight={"fragment_chars": 60, "fragments": 3})
        [first, second] = hits.to_list()
        assert sorted([first["t"], second["t"]], key=len) == ["red", long]
        cut = first if first["t"] == long else second
        [fragment] = fragments(cut)
        assert "<i>a <b>red</b> & fast <b>car</b></i>" in fragment
        assert len(re.sub("</?b>", "", fragment)) <= 60
        style = {"pre": "[", "post": "]", "escape_html": True, "fragment_chars": 60}
        rows = made.search(words="red", highlight=style, columns=["t"]).to_list()
        assert {row["t"]: fragments(row) for row in rows}["red"] == ["[red]"]
        assert any("&lt;i&gt;a [red] &amp;" in fragments(row)[0] for row in rows)
        # A column without an index, and one of lists; neither is searched.
        other = made.search(words="red", highlight={"columns": ["tags"]}, columns=[]).to_list()
        assert sorted(fragments(row) for row in other) == [[], ["a <b>red</b>"]]
        assert {"_rowid"} & set(other[0]) == set()
        kept = made.search(words="red", highlight=True, with_row_id=True).to_list()
        assert {"_rowid", "_highlights", "_score"} < set(kept[0])
        schema = made.search(words="red", highlight=True).to_arrow().schema
        texts = [pa.field(name, pa.string(), nullable=False) for name in ("column", "fragment")]
        item = pa.field("item", pa.struct(texts), nullable=False)
        assert schema.field("_highlights").type == pa.list_(item)


def test_other_tokenizers(server: LakebedServer, table: str) -> None:
    kinds: dict[str, tuple[dict[str, Any], str, list[str]]] = {
        "whitespace": ({"base_tokenizer": "whitespace"}, "x-ray,", ["x-ray,"]),
        "raw": ({"base_tokenizer": "raw"}, "an x-ray, of röntgen", ["an x-ray, of röntgen"]),
        "grams": ({"base_tokenizer": "ngram"}, "ntge", ["ntge"]),
        "german": ({"language": "German", "stem": True}, "Strahlen", ["Strahl"]),
        "icu": ({"base_tokenizer": "icu"}, "röntgen", ["röntgen"]),
    }
    with connect(server) as db:
        data = {name: ["an x-ray, of röntgen", "nothing"] for name in kinds}
        made = db.create_table(table, {**data, "german": ["ein Strahl der Sonne", "nichts"]})
        build(server, table, {name: {**PLAIN, **kind} for name, (kind, _, _) in kinds.items()})
        for name, (_, query, words) in kinds.items():
            rows = made.search(words=query, column=name, highlight=True, columns=[]).to_list()
            assert [marked(row) for row in rows] == [words], name


def test_what_cannot_be_marked_is_said(found_in: Any) -> None:
    def refusal(**search: Any) -> str:
        with pytest.raises((errors.InvalidArgument, errors.NotFound)) as caught:
            found_in.search(**search).to_list()
        return str(caught.value)

    assert "full_text_query" in refusal(vector=[0.0] * WIDTH, highlight=True)
    assert "captoin" in refusal(words="x", highlight={"columns": ["captoin"]})
    assert "caption" in refusal(words="x", highlight={"columns": ["captoin"]})
    assert "no texts" in refusal(words="x", highlight={"columns": ["label"]})
    assert "fragments" in refusal(words="x", highlight={"fragments": 21})
    assert "fragment_char" in refusal(words="x", highlight={"fragment_char": 21})


def test_all_doors_mark_alike(server: LakebedServer, found_in: Any, sql: Sql, cli: Cli) -> None:
    query = {"full_text_query": {"query": "bridge", "columns": ["caption"]}, "k": 4}
    body = {**query, "columns": ["id"], "highlight": {}}
    answer = server.http().post("/v1/table/texts/query", body)
    over_http = pa.ipc.open_file(answer.body).read_all().to_pylist()
    rows = found_in.search(
        words="bridge", column="caption", k=4, columns=["id"], highlight=True
    ).to_list()
    assert over_http == rows
    assert len(rows) == 4
    words = json.dumps({"match": {"column": "caption", "terms": "bridge", "fuzziness": 0}})
    options = json.dumps({"highlight": {}})
    of_sql = sql.rows(
        f"SELECT id, _highlights FROM text_search('texts', '{words}', 4, '{options}')"
    )
    assert of_sql == [{"id": row["id"], "_highlights": row["_highlights"]} for row in rows]
    shown = ("search", "texts", "--words", "bridge", "--highlight", "--columns", "id")
    lines = cli.ok(*shown, "--k", "2", "--format", "json").splitlines()
    assert all("<b>bridg" in line for line in lines)
    assert len(lines) == 2
    plan = server.http().post("/v1/table/texts/explain_plan", {"query": body}).text
    assert "Highlight" in plan
    # Stock clients see no difference.
    stock = connect_lancedb(server).open_table("texts").search("bridge", query_type="fts")
    assert "_highlights" not in stock.limit(1).to_arrow().schema.names


# ---- facets ---------------------------------------------------------------------------------


def test_facets_count_all_that_match(found_in: Any, cli: Cli) -> None:
    hits = found_in.search(words="bridge", column="caption", k=ROWS).to_list()
    labels = collections.Counter(row["label"] for row in hits)
    counts = found_in.facets(
        ["label", {"column": "tags", "limit": 1}], words="bridge", column="caption"
    )
    assert (counts["matched"], counts["is_cut"]) == (len(hits), False)
    [label, tags] = counts["facets"]
    assert {it["value"]: it["count"] for it in label["values"]} == labels
    assert [it["count"] for it in label["values"]] == sorted(labels.values(), reverse=True)
    assert tags["values"] == [{"value": "a", "count": len(hits)}]
    assert tags["other"] == sum(row["id"] % 2 for row in hits)
    some = found_in.facets(["label"], words="bridge", column="caption", where="label < 2")
    assert {it["value"] for it in some["facets"][0]["values"]} == {0, 1}
    everything = found_in.facets([{"column": "label", "limit": 2}])
    assert everything["matched"] == ROWS
    [all_labels] = everything["facets"]
    assert sum(it["count"] for it in all_labels["values"]) + all_labels["other"] == ROWS
    near = found_in.facets(["label"], [0.5] * WIDTH, k=7)
    assert near["matched"] == 7
    both = found_in.facets(["label"], [0.5] * WIDTH, words="bridge", k=9)
    assert both["matched"] == 9
    table = cli.ok("facets", "texts", "--by", "label", "--words", "bridge", "--limit", "1")
    assert "(others)" in table


def test_facets_beyond_the_bound_are_cut(server: LakebedServer, table: str) -> None:
    rows = 70_000
    with connect(server) as db:
        made = db.create_table(table, pa.table({"n": [i % 3 for i in range(rows)]}))
        counts = made.facets(["n"])
        assert (counts["matched"], counts["is_cut"]) == (65_536, True)
        assert sum(it["count"] for it in counts["facets"][0]["values"]) == 65_536
        exact = made.facets(["n"], where="n = 1")
        assert (exact["matched"], exact["is_cut"]) == (23_333, False)


@pytest.mark.parametrize(
    ("facets", "said"),
    [
        ([], "facets"),
        (["lable"], "label"),
        (["vector"], "no values"),
        ([{"column": "label", "limit": 0}], "limit"),
        ([{"column": "label", "limits": 3}], "limits"),
    ],
)
def test_bad_facets_are_refused(found_in: Any, facets: list[Any], said: str) -> None:
    with pytest.raises((errors.InvalidArgument, errors.NotFound), match=said):
        found_in.facets(facets)


# ---- did you mean ---------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "nearest"), [("title", "bridge"), ("caption", "bridge")])
def test_words_that_were_meant(found_in: Any, cli: Cli, column: str, nearest: str) -> None:
    found = found_in.suggest("The brigde over hapiness", column)
    assert found["corrected"] == "The bridge over happiness"
    assert [word["word"] for word in found["words"]] == ["brigde", "hapiness"]
    assert found["words"][0]["suggestions"][0]["word"] == nearest
    assert not found["words"][0]["is_known"]
    rows = found_in.search(words=nearest, column="title", k=ROWS).to_list()
    if column == "title":
        # As many as the index has; the last rows are in none.
        indexed = [row for row in rows if row["id"] < ROWS - 100]
        assert found["words"][0]["suggestions"][0]["rows"] == len(indexed)
    fine = found_in.suggest("painted bridges", column)
    assert (fine["corrected"], fine["words"]) == (None, [])
    far = found_in.suggest("xqzvwkjx", column)
    assert far["corrected"] is None
    assert far["words"][0]["suggestions"] == []
    said = cli.ok("suggest", "texts", "brigde", "--column", column)
    assert "did you mean: bridge" in said


def test_suggestions_follow_the_table(server: LakebedServer, table: str) -> None:
    with connect(server) as db:
        made = db.create_table(table, {"t": ["a red lamp"] * 3, "n": [1, 2, 3]})
        with pytest.raises(errors.InvalidArgument, match="column"):
            made.suggest("lapm")
        # Without an index the words are those of the rows.
        assert made.suggest("lapm", "t")["corrected"] == "lamp"
        made.add({"t": ["lapm"], "n": [4]})
        assert made.suggest("lapm", "t")["corrected"] is None
        build(server, table, {"t": PLAIN})
        assert made.suggest("Lmap")["corrected"] == "Lamp"
        with pytest.raises(errors.InvalidArgument, match="no texts"):
            made.suggest("x", "n")
        with pytest.raises(errors.InvalidArgument, match="bytes"):
            made.suggest("x" * 5_000, "t")


# ---- joined searches ------------------------------------------------------------------------


def normalised(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_weights_join_scores(found_in: Any, weight: float) -> None:
    query, k = [0.5] * WIDTH, 20
    near = found_in.search(query, k=k).to_list()
    said = found_in.search(words="bridge", column="caption", k=k).to_list()
    scores: dict[int, float] = collections.defaultdict(float)
    for row, score in zip(near, normalised([-row["_distance"] for row in near]), strict=True):
        scores[row["id"]] += weight * score
    for row, score in zip(said, normalised([row["_score"] for row in said]), strict=True):
        scores[row["id"]] += (1 - weight) * score
    join = {"method": "weights", "vector_weight": weight}
    found = found_in.search(
        query, words="bridge", word_columns=["caption"], k=k, hybrid=join, highlight=True
    ).to_list()
    assert len(found) == k
    best = sorted(scores.values(), reverse=True)[:k]
    assert np.allclose([row["_relevance_score"] for row in found], best, atol=1e-6)
    assert np.allclose([scores[row["id"]] for row in found], best, atol=1e-6)
    # Rows that only the vector found have no marks.
    assert all(bool(marked(row)) == bool(re.search("bridg", row["caption"])) for row in found)


def test_the_constant_of_the_fusion(found_in: Any) -> None:
    def best(**hybrid: Any) -> float:
        searched = found_in.search([0.5] * WIDTH, words="bridge", k=5, hybrid=hybrid or None)
        return float(searched.to_list()[0]["_relevance_score"])

    assert best() == best(method="rrf", rrf_k=60)
    assert best(rrf_k=1) > 5 * best()
    for hybrid, said in [
        ({"method": "sum"}, "sum"),
        ({"method": "rrf", "text_weight": 1}, "weights"),
        ({"method": "weights", "vector_weight": -1}, "weights"),
    ]:
        with pytest.raises(errors.InvalidArgument, match=said):
            found_in.search([0.5] * WIDTH, words="bridge", hybrid=hybrid).to_list()
    with pytest.raises(errors.InvalidArgument, match="hybrid"):
        found_in.search(words="bridge", hybrid={}).to_list()


# ---- a function puts rows in order ----------------------------------------------------------


@pytest.fixture(scope="module")
def worker(module_server: LakebedServer) -> Iterator[Worker]:
    """A worker that is attached, and functions that it can run."""
    made = Worker(module_server, "reranker").start()
    Jobs(module_server).wait_for_workers(1)
    db = connect_lancedb(module_server)
    for function in (overlap, key_of, shouting):
        db.create_function(function)
    yield made
    made.kill()


@pytest.mark.usefixtures("worker")
def test_a_function_puts_rows_in_order(found_in: Any, sql: Sql) -> None:
    words = "bridge river cafe"

    def score(row: dict[str, Any]) -> int:
        return len(set(words.split()) & set(row["caption"].lower().split()))

    first = found_in.search(words=words, column="caption", k=100).to_list()
    best = sorted((score(row) for row in first), reverse=True)
    rows = found_in.search(words=words, column="caption", k=8, rerank="overlap").to_list()
    assert [row["_relevance_score"] for row in rows] == best[:8]
    assert [score(row) for row in rows] == best[:8]
    assert best[0] > best[7], "the function makes a difference"
    # Others in order, and marked as well.
    rest = found_in.search(
        words=words, column="caption", k=5, offset=8, rerank="overlap", highlight=True
    ).to_list()
    assert [row["_relevance_score"] for row in rest] == best[8:13]
    assert all(marked(row) for row in rest)
    options = json.dumps({"rerank": {"function": "overlap", "query": words}})
    match = json.dumps({"match": {"column": "caption", "terms": words, "fuzziness": 0}})
    of_sql = sql.rows(
        f"SELECT _relevance_score FROM text_search('texts', '{match}', 8, '{options}')"
    )
    assert [row["_relevance_score"] for row in of_sql] == best[:8]


@pytest.mark.usefixtures("worker")
def test_by_vector_and_by_both(found_in: Any) -> None:
    query = [0.5] * WIDTH
    near = found_in.search(query, k=30, columns=["id"]).to_list()
    keys = sorted((row["id"] for row in near if row["id"] % 7), reverse=True)
    rerank = {"function": "key_of", "inputs": ["id"], "candidates": 30}
    rows = found_in.search(query, k=30, columns=["id"], rerank=rerank).to_list()
    assert [row["id"] for row in rows[: len(keys)]] == keys
    # A row without a score is at the end, in the order of the search.
    without = [row["id"] for row in near if row["id"] % 7 == 0]
    assert [row["id"] for row in rows[len(keys) :]] == without
    assert all(row["_relevance_score"] is None for row in rows[len(keys) :])
    both = found_in.search(
        query, words="bridge", word_columns=["caption"], k=4, rerank=rerank, with_row_id=True
    ).to_list()
    ids = [row["id"] for row in both]
    assert ids == sorted(ids, reverse=True)
    assert "_rowid" in both[0]
    text = found_in.search(
        query, k=3, rerank={"function": "overlap", "query": "river bridge"}
    ).to_list()
    scores: list[Any] = [row["_relevance_score"] for row in text]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("rerank", "said"),
    [
        ({"function": "overlop"}, "overlap"),
        ({"function": "overlap"}, "query"),
        ({"function": "shouting"}, "no number"),
        ({"function": "key_of"}, "number"),
        ({"function": "key_of", "inputs": ["caption", "id"]}, "inputs"),
        ({"function": "key_of", "inputs": ["id"], "candidates": 2}, "candidates"),
        ({"function": "key_of", "inputs": ["id"], "candidate": 2}, "candidate"),
    ],
)
def test_what_does_not_fit_is_said(found_in: Any, rerank: dict[str, Any], said: str) -> None:
    with pytest.raises((errors.InvalidArgument, errors.NotFound), match=said):
        found_in.search([0.5] * WIDTH, rerank=rerank).to_list()


def test_without_a_worker_it_is_said(own_server: LakebedServer) -> None:
    first = Worker(own_server, "w").start()
    Jobs(own_server).wait_for_workers(1)
    connect_lancedb(own_server).create_function(overlap)
    assert first.stop() == 0
    with connect(own_server) as db:
        made = db.create_table("t", {"caption": ["a bridge", "a river"]})
        build(own_server, "t", {"caption": PLAIN})
        with pytest.raises(errors.Unavailable, match="worker"):
            made.search(words="bridge", rerank="overlap").to_list()
        assert made.search(words="bridge").to_list()


def test_async(server: LakebedServer, shared: str) -> None:
    async def ask() -> tuple[Any, Any]:
        url = f"http://{server.http_address}"
        async with await lakebed.connect_async(url, server.admin_key) as db:
            table = db.table(shared)
            return await table.facets(["label"]), await table.suggest("brigde", "title")

    facets, suggested = asyncio.run(ask())
    assert facets["matched"] == ROWS
    assert suggested["corrected"] == "bridge"


def test_the_page_runs(make_server: Callable[..., LakebedServer], tmp_path: Path) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""})
    home = server.work / "home"
    (home / ".config").mkdir(parents=True, exist_ok=True)
    server.start()
    [key_file] = (home / ".config/lakebed").glob("*.key")
    server.admin_key = key_file.read_text().strip()
    text = (readme.ROOT / "docs/text-search.md").read_text()
    before, between, after = re.split(r"^\$ lakebed index create .*$", text, flags=re.MULTILINE)
    connected = before.split("notes = ")[0]
    opened = connected + 'notes, points = db.table("notes"), db.table("points")\n```\n'

    def run(page: str) -> str:
        (tmp_path / "page.md").write_text(page)
        return readme.run(server.http_address, home, tmp_path / "page.md")

    run(before)
    build(server, "notes", {"text": {"index_type": "FTS"}})
    printed = run(opened + between)
    build(server, "points", {"text": {"index_type": "FTS"}})
    printed += run(opened + after)
    # What the page shows is what it prints.
    shown = re.findall(r"^```python\n[^`]*print[^`]*```\n\n```\n(.*?)^```$", text, re.M | re.S)
    assert len(shown) == 4
    assert printed == "".join(shown)
