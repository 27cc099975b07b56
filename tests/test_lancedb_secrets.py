"""Secrets as users of the LanceDB client have them: made, bound to functions, never told."""

import base64
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from lancedb import EnvVarSecret, col, udf
from lancedb.remote.errors import HttpError

from support.backup import Make, ok, served
from support.http import Http
from support.server import LakebedServer
from support.waiting import wait_until
from support.worker import Jobs, Worker

SOON = timedelta(seconds=60)
TOKEN = EnvVarSecret(secret_name="token", env_variable="TOKEN")


@udf
def fingerprint(n: int) -> str:
    import hashlib
    import os

    token = os.environ["TOKEN"]
    print(f"row {n} has {token}")
    if n < 0:
        raise ValueError(f"no fingerprint with {token}")
    return hashlib.sha256(f"{n} {token}".encode()).hexdigest()


def fingerprints(value: str, *numbers: int) -> list[str]:
    return [hashlib.sha256(f"{n} {value}".encode()).hexdigest() for n in numbers]


def new_value() -> str:
    """A value that stands nowhere by chance."""
    return f"tok-{secrets.token_hex(20)}"


def opened(server: LakebedServer) -> lancedb.DBConnection:
    address = f"http://{server.http_address}"
    return lancedb.connect("db://default", api_key=server.admin_key, host_override=address)


def rows_of(table: Any) -> pa.Table:
    return table.search().to_arrow()


def key_file(server: LakebedServer) -> Path:
    """Where the key of secrets lies by default."""
    [found] = (server.work / "home/.config/lakebed").glob("*.secrets-key")
    return found


def places_of(folder: Path, *values: str) -> list[str]:
    """The files below a folder in which one of the values stands, plain or in base64."""
    wanted = [form for value in values for form in (value.encode(), *in_base64(value))]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(form in path.read_bytes() for form in wanted)]


def in_base64(value: str) -> list[bytes]:
    """What of a value stands in base64, wherever it begins."""
    return [base64.b64encode(b"x" * shift + value.encode())[4:-4] for shift in range(3)]


@pytest.fixture
def db(server: LakebedServer) -> lancedb.DBConnection:
    """The stock client."""
    return opened(server)


@pytest.fixture(scope="module")
def worker(module_server: LakebedServer) -> Iterator[Worker]:
    """One worker."""
    made = Worker(module_server, "s1").start()
    Jobs(module_server).wait_for_workers(1)
    yield made
    made.kill()


def test_the_life_of_a_secret(make_server: Make, tmp_path: Path) -> None:
    server = make_server("whole").start()
    db, jobs = opened(server), Jobs(server)
    worker = Worker(server, "w").start()
    jobs.wait_for_workers(1)
    first, second = new_value(), new_value()
    db.create_secret("token", first)
    with pytest.raises(HttpError, match="already exists"):
        db.create_secret("token", second)
    made = db.describe_secret("token")
    assert (made.name, made.created_at_millis) == ("token", made.updated_at_millis)
    assert db.list_secrets() == ["token"]

    function = db.create_function(fingerprint, secrets=[TOKEN])
    [binding] = function.secret_bindings
    assert (binding.kind, binding.variable, binding.secret_ref.name) == ("env", "TOKEN", "token")
    assert db.get_function("fingerprint", version="1") == function
    docs = db.create_table("docs", pa.table({"n": [1, 2]}))
    docs.add_columns({"print": function(n=col("n"))})
    assert docs.refresh_column_async("print").wait(SOON).rows_failed == 0

    def prints() -> list[str]:
        return rows_of(docs).sort_by("n").column("print").to_pylist()

    assert prints() == fingerprints(first, 1, 2)

    db.alter_secret("token", second)
    altered = db.describe_secret("token")
    assert altered.created_at_millis == made.created_at_millis < altered.updated_at_millis
    docs.add(pa.table({"n": [3]}))
    assert docs.refresh_column_async("print").wait(SOON).rows_assigned == 1
    assert prints() == [*fingerprints(first, 1, 2), *fingerprints(second, 3)]
    assert db.create_function(fingerprint, secrets=[TOKEN]) == function, "no other version"

    docs.add(pa.table({"n": [-1]}))
    assert docs.refresh_column_async("print").wait(SOON).rows_failed == 1
    [record] = docs.function_errors(column="print").records
    assert record.error_message == "no fingerprint with ***"
    wait_until(lambda: "row 3 has ***" in worker.log(), "what the function printed", 20)

    db.drop_secret("token")
    assert db.list_secrets() == []
    for gone in (db.describe_secret, db.drop_secret):
        with pytest.raises(HttpError, match="secret `token` does not exist"):
            gone("token")
    with pytest.raises(HttpError, match="does not exist"):
        db.alter_secret("token", first)
    docs.add(pa.table({"n": [4]}))
    with pytest.raises(HttpError, match="secret `token` does not exist; `TOKEN` is bound to it"):
        docs.refresh_column_async("print")
    db.create_secret("token", first)
    assert docs.refresh_column_async("print").wait(SOON).rows_assigned == 1
    assert prints()[-1:] == fingerprints(first, 4)

    assert worker.stop() == 0
    assert server.terminate() == 0
    there, back = tmp_path / "there", tmp_path / "back"
    ok(tmp_path, "backup", "--data", str(server.data), "--to", str(there), "--audit")
    ok(tmp_path, "restore", "--from", str(there), "--data", str(back))
    assert places_of(tmp_path, first, second) == []
    (tmp_path / "told").write_bytes(b"..." + base64.b64encode(b"xx" + first.encode()))
    assert places_of(tmp_path, first) == [str(tmp_path / "told")], "what looks finds something"
    (tmp_path / "told").unlink()
    audit = "".join(
        path.read_text() for path in sorted((there / "_lakebed/audit").rglob("*.jsonl"))
    )
    lines = [json.loads(line) for line in audit.splitlines()]
    told = [
        (line["verb"], line["outcome"], line["subject"])
        for line in lines
        if "secret" in line["verb"]
    ]
    subject = "default/token"
    assert told[:2] == [
        ("create_secret", "ok", subject),
        ("create_secret", "already_exists", subject),
    ]
    verbs = [verb for verb, outcome, _ in told if outcome == "ok"]
    assert verbs == ["create_secret", "alter_secret", "drop_secret", "create_secret"]

    # The key is not in the lake: whoever has it opens the copy.
    key = key_file(server)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    copy = served(make_server, "copy", back, server, args=["--secrets-key-file", str(key)])
    worker = Worker(copy, "w").start()
    docs = opened(copy).open_table("docs")
    docs.add(pa.table({"n": [5]}))
    assert docs.refresh_column_async("print").wait(SOON).rows_assigned == 1
    assert prints()[-1:] == fingerprints(first, 5)
    worker.kill()


def test_another_key_is_told(make_server: Make) -> None:
    server = make_server("other").start()
    db = opened(server)
    worker = Worker(server, "w").start()
    Jobs(server).wait_for_workers(1)
    value = new_value()
    db.create_secret("token", value)
    function = db.create_function(fingerprint, secrets=[TOKEN])
    docs = db.create_table("docs", pa.table({"n": [1]}))
    docs.add_columns({"print": function(n=col("n"))})
    key = key_file(server)
    right = key.read_bytes()

    def says(words: str) -> None:
        assert docs.refresh_column_async("print").wait(SOON).rows_failed == 1
        [record, *_] = docs.function_errors(column="print").records
        assert words in record.error_message, record
        assert value not in record.error_message

    # Written in place, so that it stays private.
    key.write_text(base64.b64encode(os.urandom(32)).decode())
    server.expect_log("was written under key|damaged")
    says("secret `token` was written under key")
    for call in (db.create_secret, db.alter_secret):
        name = "token" if call == db.alter_secret else "more"
        with pytest.raises(HttpError, match="`token` of database `default` was written under key"):
            call(name, value)
    key.unlink()
    with pytest.raises(HttpError, match="there is no key in"):
        db.create_secret("more", value)
    assert not key.exists(), "no key is made beside another one's secrets"
    key.write_bytes(right)
    server.expect_log("the key of secrets can be read by others")
    assert docs.refresh_column_async("print").wait(SOON).rows_failed == 0
    assert rows_of(docs).column("print").to_pylist() == fingerprints(value, 1)

    # Without its key a lake begins anew once the secrets are gone.
    key.unlink()
    db.drop_secret("token")
    db.create_secret("token", value)
    assert key.read_bytes() != right
    worker.kill()


def test_a_secret_that_goes_while_a_job_waits(own_server: LakebedServer) -> None:
    db, jobs = opened(own_server), Jobs(own_server)
    db.create_secret("token", new_value())
    function = db.create_function(fingerprint, secrets=[TOKEN])
    docs = db.create_table("docs", pa.table({"n": [1, 2, 3]}))
    docs.add_columns({"print": function(n=col("n"))})
    job = docs.refresh_column_async("print")
    wait_until(lambda: jobs.progress(job.id).get("waits_for"), "what it waits for", 20)
    db.drop_secret("token")
    worker = Worker(own_server, "late").start()
    assert job.wait(SOON).rows_failed == 3
    records = docs.function_errors(column="print").records
    assert len(records) == 3
    assert "secret `token` does not exist; `TOKEN` is bound to it" in records[0].error_message
    assert worker.stop() == 0


@pytest.mark.usefixtures("worker")
def test_secrets_of_namespaces(db: lancedb.DBConnection, table: str) -> None:
    here, there = new_value(), new_value()
    db.create_namespace(["vault"])
    db.create_secret("token", here)
    db.create_secret("token", there, namespace_path=["vault"])
    db.create_secret("other", there, namespace_path=["vault"])
    assert db.list_secrets(namespace_path=["vault"]) == ["other", "token"]
    assert db.describe_secret("token", namespace_path=["vault"]).name == "token"
    bound = EnvVarSecret("token", "TOKEN", secret_namespace_path=["vault"])
    function = db.create_function(fingerprint, secrets=[bound])
    docs = db.create_table(table, pa.table({"n": [1]}))
    docs.add_columns({"print": function(n=col("n"))})
    assert docs.refresh_column_async("print").wait(SOON).rows_failed == 0
    assert rows_of(docs).column("print").to_pylist() == fingerprints(there, 1)
    db.drop_secret("other", namespace_path=["vault"])
    assert "token" in db.list_secrets()
    with pytest.raises(Exception, match="not empty"):
        db.drop_namespace(["vault"])


def registration(code: str, *bindings: dict[str, Any], **runtime: Any) -> dict[str, Any]:
    """What the client sends for a function `f` of an integer."""
    text = code.encode()
    return {
        "artifact": {
            "kind": "python_callable",
            "digest": f"sha256:{hashlib.sha256(text).hexdigest()}",
            "entrypoint": "f",
            "content": {"encoding": "base64", "data": base64.b64encode(text).decode()},
            "adapter": {"kind": "scalar_to_arrow_batch", "version": 1},
        },
        "signature": {
            "inputs": [{"name": "a", "arrow_type": "int64", "nullable": False}],
            "output": {"kind": "scalar", "arrow_type": "int64", "nullable": False},
        },
        "runtime": {
            "kind": "python",
            "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
            "environment": {"kind": "pip"},
            **runtime,
        },
        "secret_bindings": list(bindings),
    }


def binding(variable: str, name: str = "s", **more: Any) -> dict[str, Any]:
    return {"kind": "env", "variable": variable, "secret_ref": {"name": name}, **more}


F = "def f(a: int) -> int:\n    return a\n"


@pytest.mark.usefixtures("worker")
def test_a_function_is_tried_with_its_secrets(
    server: LakebedServer, db: lancedb.DBConnection
) -> None:
    value = new_value()
    db.create_secret("mode", value)

    def tried(code: str) -> dict[str, Any]:
        body = registration(f"import os\n{code}\n{F}", binding("MODE", "mode"))
        asked = server.http().ok("POST", "/v1/function/tried/create", body).json()
        return Jobs(server).wait(asked["job_id"])

    assert tried("MODE = os.environ['MODE']")["job_state"] == "DONE"
    failed = tried("raise RuntimeError('odd: ' + os.environ['MODE'])")
    assert failed["job_state"] == "FAILED"
    assert "odd: ***" in failed["failure"]["message"]
    assert value not in json.dumps(failed)


@pytest.mark.parametrize(
    ("bindings", "runtime", "says"),
    [
        ([binding("TOKEN", "zzz")], {}, "secret `zzz` does not exist; `TOKEN` is bound to it"),
        ([binding("A=B")], {}, "A=B"),
        ([binding("A"), binding("A")], {}, "`A` of the function is set twice"),
        ([binding("A")], {"env": {"A": "x"}}, "`A` of the function is set twice"),
        ([binding("A", "../s")], {}, "the secret of a function"),
        ([binding("A", kind="file")], {}, "`file`"),
        ([binding("A", value="x")], {}, "value"),
        ([binding(f"A{n}") for n in range(65)], {}, "at most 64"),
    ],
)
def test_bindings_are_checked(
    server: LakebedServer, bindings: list[dict[str, Any]], runtime: dict[str, Any], says: str
) -> None:
    answer = server.http().post("/v1/function/f/create", registration(F, *bindings, **runtime))
    assert answer.status in (400, 501), answer.text
    assert says in answer.text


def test_what_is_no_value(server: LakebedServer) -> None:
    http, value = server.http(), new_value()
    for body, says in [
        (b"", "`value` is missing"),
        (b'{"value":null}', "`value` is missing"),
        (b'{"value":""}', "empty"),
        (b'{"value":"a\\u0000b"}', "NUL"),
        (json.dumps({"value": "x" * 32_769}).encode(), "the limit is 32768"),
        (json.dumps({"value": [value]}).encode(), "no text"),
        (json.dumps({"value": {value: 1}}).encode(), "no text"),
        (json.dumps(value).encode(), "no JSON object"),
        (json.dumps([value]).encode(), "no JSON object"),
        (json.dumps({"value": value, "novel": 1}).encode(), "`novel`"),
        (json.dumps({"value": value}).encode()[:-1], "not understood"),
        (b'{"value":12345678901}', "no text"),
    ]:
        for verb in ("create", "alter"):
            answer = http.post(f"/v1/secret/odd/{verb}", body)
            assert (answer.status, says in answer.text) == (400, True), answer.text
            assert value not in answer.text
            assert "12345678901" not in answer.text
    assert http.post("/v1/secret/odd/describe").status == 404
    assert places_of(server.work, value) == []
    for name in ("a%2Fb", "..", "a%20b", "x" * 129):
        answer = http.post(f"/v1/secret/{name}/create", {"value": value})
        assert answer.status == 400, (name, answer.text)


def test_who_may_do_what(server: LakebedServer) -> None:
    def of(role: str) -> Http:
        made = server.http().ok("POST", "/v1/keys", {"name": role, "role": role}).json()
        return server.http(made["key"])

    value = new_value()
    server.http().ok("POST", "/v1/secret/mine/create", {"value": value})
    for role in ("write", "read", "worker"):
        http = of(role)
        for verb, body in [("create", {"value": value}), ("alter", {"value": value}), ("drop", {})]:
            answer = http.post(f"/v1/secret/mine/{verb}", body)
            assert answer.status == 403, (role, verb, answer.text)
    http = of("read")
    told = http.ok("POST", "/v1/secret/mine/describe").json()
    assert set(told) == {"name", "namespace_path", "created_at_millis", "updated_at_millis"}
    listed = http.ok("GET", "/v1/namespace/$/secret/list?limit=1").json()
    assert listed["secrets"][0] == {"name": "mine"}
    assert server.http(None).post("/v1/secret/mine/describe").status == 401
    server.http().ok("POST", "/v1/secret/mine/drop")
