"""Registered models: versions, tags and files in the lake, and workers that run them."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakebed
from lakebed.errors import InvalidArgument, NotFound
from support.backup import Make, ok, served
from support.cli import Cli
from support.flight import Lake
from support.http import Http
from support.server import LakebedServer
from support.small_models import files_below, mean_of_words, picture, picture_model, text_model
from support.waiting import wait_until
from support.worker import TEXT_MODEL, Jobs, Worker

TOLERANCE = 1e-5


@pytest.fixture
def db(server: LakebedServer) -> lakebed.Connection:
    """The Python client with the admin's key."""
    return connected(server)


def connected(server: LakebedServer, key: str | None = None) -> lakebed.Connection:
    return lakebed.connect(f"http://{server.http_address}", key or server.admin_key)


@pytest.fixture
def cli(server: LakebedServer, tmp_path: Path) -> Cli:
    """The command line."""
    return Cli(server, tmp_path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the workers of this module, with nothing in it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def worker(module_server: LakebedServer, cache: Path) -> Iterator[Worker]:
    """One worker."""
    made = Worker(module_server, "m1", cache=cache).start()
    Jobs(module_server).wait_for_workers(1)
    yield made
    made.kill()


def stored(server: LakebedServer) -> set[str]:
    """The digests of the files of models in the lake."""
    folder = Path(server.data) / "_lakebed/model_files/sha256"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def digests(folder: Path) -> set[str]:
    return {hashlib.sha256(data).hexdigest() for data in files_below(folder).values()}


def test_versions_and_tags_by_the_command_line(
    server: LakebedServer, cli: Cli, tmp_path: Path
) -> None:
    model = text_model(tmp_path / "m")
    large = secrets.token_bytes(3 << 20)
    (model / "weights").mkdir()
    (model / "weights/part-1.bin").write_bytes(large)
    (model / "empty.txt").write_bytes(b"")
    (model / ".git").mkdir()
    (model / ".git/config").write_text("hidden")
    first = files_below(model)
    register = ("models", "register", "words", "--path", str(model))
    made = json.loads(cli.ok(*register, "--licence", "MIT", "--format", "json"))
    assert (made["name"], made["version"], made["licence"]) == ("words", 1, "MIT")
    assert (made["graph"], made["tokenizer"]) == ("onnx/model.onnx", "tokenizer.json")
    assert cli.ok(*register).split() == ["words@1", made["digest"]], "the same is the same version"

    (model / "weights/part-2.bin").write_bytes(b"more")
    before = stored(server)
    assert cli.ok(*register).startswith("words@2 ")
    assert stored(server) - before == {hashlib.sha256(b"more").hexdigest()}, "only what is new"

    cli.ok("models", "tag", "words", "1", "production")
    assert "production@1" in cli.ok("models", "list")
    cli.ok("models", "tag", "words", "2", "production")
    described = json.loads(cli.ok("models", "describe", "words", "--format", "json"))
    assert described["tags"] == {"production": 2}
    assert [version["version"] for version in described["versions"]] == [1, 2]
    assert "production" in cli.ok("models", "describe", "words").splitlines()[2]
    assert "weights/part-2.bin" in cli.ok("models", "describe", "words@production")

    out = tmp_path / "out"
    for name, expected in [
        ("words@1", {path: first[path] for path in first if not path.startswith(".git")}),
        ("words@production", {p: d for p, d in files_below(model).items() if ".git" not in p}),
        ("words", {p: d for p, d in files_below(model).items() if ".git" not in p}),
    ]:
        cli.ok("models", "export", name, "--to", str(out))
        assert files_below(out) == expected
        shutil.rmtree(out)

    cli.ok("models", "untag", "words", "production")
    cli.fails(1, "models", "export", "words@production", "--to", str(out))
    cli.ok("models", "drop", "words@1")
    assert hashlib.sha256(large).hexdigest() in stored(server), "the other version has it"
    cli.ok("models", "drop", "words")
    assert digests(model) & stored(server) == set()
    assert "does not exist" in cli.fails(1, "models", "describe", "words")
    # Numbers begin anew, and what was there is known by its digest.
    assert cli.ok(*register, "--licence", "MIT").startswith("words@1 ")
    cli.ok("models", "drop", "words")


def test_versions_and_tags_by_python(db: lakebed.Connection, tmp_path: Path) -> None:
    model = picture_model(tmp_path / "m", licence="Apache-2.0")
    (model / "large.bin").write_bytes(secrets.token_bytes(9 << 20))
    (model / "empty").write_bytes(b"")
    link = tmp_path / "elsewhere"
    link.write_bytes(b"linked")
    (model / "linked.txt").symlink_to(link)
    made = db.models.register("colours", model, task="embedding")
    assert (str(made), made.raw["licence"]) == ("colours@1", "Apache-2.0")
    again = db.models.register("colours", model, task="other")
    assert (again.version, again.digest, again.raw["task"]) == (1, made.digest, "other")
    # What decides the results makes another version, what is only said does not.
    other = db.models.register("colours", model, normalize=True)
    assert (other.version, other.digest != made.digest) == (2, True)
    db.models.tag("colours", 1, "v1.0-rc")
    assert db.models.version("colours@v1.0-rc") == db.models.version("colours@1")
    assert db.models.version("colours") == db.models.version("colours@2")
    found = db.models.export("colours@v1.0-rc", tmp_path / "out")
    assert found.version == 1
    assert files_below(tmp_path / "out") == files_below(model)
    [listed] = [one for one in db.models.list() if one["name"] == "colours"]
    assert (listed["registered"], listed["version"], listed["versions"]) == (True, 2, 2)
    assert listed["tags"] == {"v1.0-rc": 1}
    [built_in] = [one for one in db.models.list() if one["name"] == TEXT_MODEL]
    assert built_in["registered"] is False

    single = tmp_path / "one.safetensors"
    single.write_bytes(b"any bytes")
    assert db.models.register("blob", single, licence="MIT").version == 1
    db.models.export("blob", tmp_path / "single")
    assert files_below(tmp_path / "single") == {"one.safetensors": b"any bytes"}

    db.models.untag("colours", "v1.0-rc")
    for gone in ("colours@v1.0-rc", "colours@7", "none"):
        with pytest.raises(NotFound):
            db.models.version(gone)
    db.models.drop("colours", 2)
    assert db.models.version("colours").version == 1
    db.models.drop("colours")
    with pytest.raises(NotFound, match="colours"):
        db.models.drop("colours")


@pytest.mark.usefixtures("worker")
def test_a_model_of_texts_computes_a_column(
    db: lakebed.Connection, lake: Lake, table: str, tmp_path: Path
) -> None:
    db.models.register("words", text_model(tmp_path / "one", seed=1))
    db.models.register("words", text_model(tmp_path / "two", seed=2))
    db.models.tag("words", 1, "production")
    texts = ["red car", "blue cat", None, "green", "red red unknown"]
    docs = db.create_table(table, {"id": [*range(len(texts))], "text": texts})

    def vectors() -> list[list[float] | None]:
        return lake.read(table).sort_by("id").column("v").to_pylist()

    def expected(seed: int) -> list[Any]:
        return [text and pytest.approx(mean_of_words(text, seed), abs=TOLERANCE) for text in texts]

    submit = {"input": "text", "output": "v"}
    job = db.jobs.submit(table, **submit, model="words@production")
    ended = job.wait(60)
    assert (ended.state, ended.rows_failed) == ("DONE", 0)
    assert vectors() == expected(1)
    notes = lake.read(table).schema.field("v").metadata
    digest = db.models.version("words@1").digest
    assert notes[b"lakebed:model"] == b"words"
    assert notes[b"lakebed:model_version"] == b"1"
    assert notes[b"lakebed:model_digest"] == digest.encode()
    assert ended.raw["result"]["model_digest"] == digest

    found = docs.search(text="red car", column="v", k=1).to_list()
    assert found[0]["id"] == 0

    # The newest is another version: its vectors are not put among those of the first.
    with pytest.raises(InvalidArgument, match="another version"):
        db.jobs.submit(table, **submit, model="words")
    db.jobs.submit(table, **submit, model="words", recompute=True).wait(60)
    assert vectors() == expected(2)
    found = docs.search(text="blue cat", column="v", k=1).to_list()
    assert found[0]["id"] == 1

    with pytest.raises(InvalidArgument, match=f"column `v` of `default/{table}`"):
        db.models.drop("words", 2)
    with pytest.raises(InvalidArgument, match="with `force`"):
        db.models.drop("words")
    db.models.drop("words", 1)
    db.models.drop("words", 2, force=True)
    with pytest.raises(lakebed.LakebedError, match="words"):
        docs.search(text="blue cat", column="v", k=1).to_list()


@pytest.mark.usefixtures("worker")
def test_a_model_of_pictures_computes_a_column(
    db: lakebed.Connection, lake: Lake, table: str, tmp_path: Path
) -> None:
    colours = [(255, 0, 51), (0, 102, 0), (10, 20, 30)]
    halves = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    db.models.register("colours", picture_model(tmp_path / "m", **halves))
    cells = [*(picture(*colour) for colour in colours), b"no picture"]
    db.create_table(table, {"id": [*range(len(cells))], "data": cells})
    ended = db.jobs.submit(table, input="data", output="v", model="colours").wait(60)
    assert (ended.state, ended.rows_failed) == ("DONE", 1)
    found = lake.read(table).sort_by("id").column("v").to_pylist()
    wanted = np.array(colours) / 255 * 2 - 1
    assert found[3] is None
    assert found[:3] == [pytest.approx(list(row), abs=TOLERANCE) for row in wanted]
    similar = db.table(table).search(picture=cells[1], column="v", k=1).to_list()
    assert similar[0]["id"] == 1


def test_what_is_damaged_in_a_cache_is_fetched_again(
    own_server: LakebedServer, tmp_path: Path
) -> None:
    db, jobs = connected(own_server), Jobs(own_server)
    cache, model = tmp_path / "cache", text_model(tmp_path / "m")
    db.models.register("words", model)
    docs = db.create_table("t", {"id": [1], "text": ["red car"]})

    def compute(name: str) -> Worker:
        worker = Worker(own_server, name, cache=cache).start()
        jobs.wait_for_workers(1)
        job = db.jobs.submit("t", input="text", output="v", model="words")
        assert job.wait(60).state == "DONE"
        assert worker.stop() == 0
        return worker

    assert "fetched onnx/model.onnx" in compute("w1").log()
    [kept] = (cache / "registered_models").iterdir()
    assert files_below(kept) == files_below(model)
    docs.add({"id": [2], "text": ["blue"]})
    assert "fetched" not in compute("w2").log(), "what is there is used again"

    graph = kept / "onnx/model.onnx"
    damaged = bytearray(graph.read_bytes())
    # Of a weight: the graph would load all the same.
    damaged[len(damaged) // 2] ^= 0x40
    graph.write_bytes(damaged)
    docs.add({"id": [3], "text": ["green cat"]})
    log = compute("w3").log()
    assert "onnx/model.onnx is damaged and fetched again" in log
    assert "fetched tokenizer.json" not in log
    assert files_below(kept) == files_below(model)
    rows = own_server.lake().read("t").sort_by("id")
    for text, vector in zip(rows["text"].to_pylist(), rows["v"].to_pylist(), strict=True):
        assert vector == pytest.approx(mean_of_words(text, 1), abs=TOLERANCE)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dimensions": 7}, "gives 1 x 4 numbers for 1 rows of 7"),
        ({"output": "pooled"}, "no output `pooled`"),
        ({"graph": "tokenizer.json"}, "cannot be loaded"),
    ],
)
def test_what_cannot_be_run_is_said(
    db: lakebed.Connection, table: str, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    db.models.register("odd", text_model(tmp_path / "m", **changes))
    db.create_table(table, {"text": ["red car", "blue"]})
    job = db.jobs.submit(table, input="text", output="v", model="odd")
    job.wait(60)
    errors = job.errors()
    assert len(errors) == 2
    assert says in errors[0]["error"]
    db.models.drop("odd", force=True)


def test_a_job_waits_for_a_worker(own_server: LakebedServer, tmp_path: Path) -> None:
    db, jobs = connected(own_server), Jobs(own_server)
    db.models.register("words", text_model(tmp_path / "m"))
    db.create_table("t", {"text": ["red car"]})
    job = db.jobs.submit("t", input="text", output="v", model="words@1")

    def waits_for() -> str:
        return jobs.progress(job.id).get("waits_for") or ""

    wait_until(waits_for, "what it waits for", 20)
    assert waits_for() == "a worker that runs registered models"
    [listed] = [one for one in db.models.list() if one["name"] == "words"]
    assert listed["workers"] == 0
    key = own_server.http().ok("POST", "/v1/keys", {"name": "w", "role": "worker"}).json()["key"]
    worker = Worker(own_server, "late", key=key, cache=tmp_path / "cache").start()
    assert job.wait(60).state == "DONE"
    [listed] = [one for one in db.models.list() if one["name"] == "words"]
    assert listed["workers"] == 1
    # A worker's key opens the models of its tasks and no others.
    http = own_server.http(key)
    for path in ("/v1/models", "/v1/models/words", "/v1/models/words/file?path=model.toml"):
        assert http.get(path).status == 403, path
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"dimensions": 3}, "`input` is missing"),
        ({"input": "text"}, "`dimensions` is missing"),
        ({"input": "sound", "dimensions": 3}, "sound"),
        ({"input": "text", "dimensions": 0}, "`dimensions` is 0"),
        ({"input": "text", "dimensions": 3, "graph": "none.onnx"}, "`none.onnx`"),
        ({"input": "text", "dimensions": 3, "tokenizer": "t.json"}, "`t.json`"),
        ({"input": "text", "dimensions": 3, "side": 8}, "`side`"),
        ({"input": "picture", "dimensions": 3, "std": [0, 1, 1]}, "`std`"),
        ({"input": "picture", "dimensions": 3, "pooling": "mean"}, "`pooling`"),
        ({"input": "text", "dimensions": 3, "pooling": "max"}, "max"),
        ({"novel": 1}, "`novel`"),
    ],
)
def test_declarations_are_checked(
    db: lakebed.Connection, tmp_path: Path, declared: dict[str, Any], says: str
) -> None:
    model = text_model(tmp_path / "m")
    (model / "model.toml").unlink()
    with pytest.raises(InvalidArgument, match=says):
        db.models.register("odd", model, **declared)


def test_registrations_are_checked(server: LakebedServer) -> None:
    http = server.http()
    sha256 = hashlib.sha256(b"x").hexdigest()

    def refused(says: str, *files: dict[str, Any], name: str = "odd", status: int = 400) -> None:
        answer = http.post(f"/v1/models/{name}/register", {"files": [*files]})
        assert (answer.status, says in answer.text) == (status, True), answer.text

    good = {"path": "a", "size": 1, "sha256": sha256}
    refused("from 1 to 1000 files")
    refused("upload it", good)
    refused("does not exist", {**good, "upload": "nosuch"}, status=404)
    refused("twice", good, good)
    for path in ("", "/a", "../a", "a/../b", "a//b", "a\\b", "c:a", "a\0b", "x" * 513):
        refused("no path of a model's file", {**good, "path": path})
    for digest in ("", "abc", sha256.upper(), f"../{sha256[3:]}"):
        refused("no SHA-256", {**good, "sha256": digest})
        assert http.post("/v1/model_files/missing", {"sha256": [digest]}).status == 400
    for name in ("a%2Fb", "..", ".hidden", "a%20b", "x" * 129, "a@1"):
        refused("model name", good, name=name)
    refused("built into workers", good, name=TEXT_MODEL)

    upload = http.ok("POST", "/v1/uploads").json()["id"]
    http.ok("PUT", f"/v1/uploads/{upload}?offset=0", b"y")
    done = {"size": 1, "sha256": hashlib.sha256(b"y").hexdigest()}
    http.ok("POST", f"/v1/uploads/{upload}/complete", done)
    refused("bytes", {**good, "upload": upload})
    assert http.get("/v1/models/odd").status == 404
    for tag in ("", "7", "a b", "x" * 129):
        assert http.post("/v1/models/odd/tag", {"tag": tag, "version": 1}).status == 400


def test_who_may_do_what(server: LakebedServer, db: lakebed.Connection, tmp_path: Path) -> None:
    def of(role: str) -> Http:
        made = server.http().ok("POST", "/v1/keys", {"name": role, "role": role}).json()
        return server.http(made["key"])

    (tmp_path / "m.bin").write_bytes(b"bytes of a model")
    db.models.register("mine", tmp_path / "m.bin")
    for role in ("write", "read", "worker"):
        http = of(role)
        for verb, body in [
            ("register", {"files": []}),
            ("tag", {"tag": "t", "version": 1}),
            ("untag", {"tag": "t"}),
            ("drop", {"force": True}),
        ]:
            assert http.post(f"/v1/models/mine/{verb}", body).status == 403, (role, verb)
        assert http.post("/v1/model_files/missing", {"sha256": []}).status == 403
    read = of("read")
    answer = read.get("/v1/models/mine@1/file?path=m.bin&offset=6&length=2")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"of", "2")
    assert read.get("/v1/models/mine/file?path=m.bin&offset=99").body == b""
    assert read.get("/v1/models/mine/file?path=other").status == 404
    assert read.get("/v1/models/mine/file").status == 400
    assert server.http(None).get("/v1/models/mine").status == 401
    db.models.drop("mine")


def test_models_are_in_a_backup(make_server: Make, tmp_path: Path) -> None:
    server = make_server("first").start()
    db = connected(server)
    model = text_model(tmp_path / "m")
    made = db.models.register("words", model)
    db.models.tag("words", 1, "production")
    assert server.terminate() == 0
    there, back = tmp_path / "there", tmp_path / "back"
    ok(tmp_path, "backup", "--data", str(server.data), "--to", str(there))
    again = ok(tmp_path, "backup", "--data", str(server.data), "--to", str(there))
    assert again["counts"]["files_copied"] == 0, again
    ok(tmp_path, "restore", "--from", str(there), "--data", str(back))
    second = connected(served(make_server, "second", back, server))
    assert second.models.version("words@production") == made
    second.models.export("words", tmp_path / "out")
    assert files_below(tmp_path / "out") == files_below(model)


def test_unknown_models_are_named(db: lakebed.Connection, table: str, tmp_path: Path) -> None:
    db.models.register("words-of-users", text_model(tmp_path / "m"))
    db.create_table(table, pa.table({"text": ["x"]}))
    for name, says in [
        ("words-of-usrs", "nearest: words-of-users;"),
        ("words-of-users@9", "no version 9; it has 1"),
        ("words-of-users@gold", "no tag `gold`"),
        ("a/b", "is not known"),
    ]:
        with pytest.raises(NotFound, match=says):
            db.jobs.submit(table, input="text", output="v", model=name)
    (tmp_path / "plain").write_bytes(b"x")
    db.models.register("plain", tmp_path / "plain")
    with pytest.raises(InvalidArgument, match="workers cannot run it"):
        db.jobs.submit(table, input="text", output="v", model="plain")
    db.models.drop("words-of-users")
    db.models.drop("plain")
