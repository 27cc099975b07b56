"""`lakebed sql`, `search` and `jobs errors`: rows on the command line, in each of their forms."""

import csv
import io
import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from support.cli import Cli
from support.server import LakebedServer, built_binary


@pytest.fixture
def cli(server: LakebedServer, tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(server, home)


def test_sql(cli: Cli, table: str) -> None:
    rows = pa.table({"id": range(3), "name": ["a", None, 'x "y"\nz'], "v": [[1.5], [], None]})
    cli.server.lake().create(table, rows)
    query = f'SELECT * FROM "{table}" ORDER BY id'
    printed = cli.ok("sql", query).splitlines()
    assert printed[0].split() == ["id", "name", "v"]
    assert printed[2].split() == ["1", "-", "[]"]
    lines = cli.ok("sql", query, "--format", "json").splitlines()
    assert [json.loads(line) for line in lines][2] == {"id": 2, "name": 'x "y"\nz'}
    text = cli.ok("sql", f'SELECT id, name FROM "{table}" ORDER BY id', "--format", "csv")
    assert list(csv.reader(io.StringIO(text)))[3] == ["2", 'x "y"\nz']
    arrow = subprocess.run(
        [str(built_binary()), "sql", query, "--format", "arrow"],
        env=cli.environment(),
        capture_output=True,
        check=True,
    )
    assert pa.ipc.open_stream(arrow.stdout).read_all().to_pylist() == rows.to_pylist()
    # Changes say how many rows they changed.
    assert cli.ok("sql", f'DELETE FROM "{table}" WHERE id > 0').strip() == "2 rows"
    assert cli.ok("sql", f'SELECT count(*) AS n FROM "{table}"').split() == ["n", "1"]
    refused = cli.run("sql", "SELECT nothing FROM nowhere")
    assert refused.returncode == 1
    assert "nowhere" in refused.stderr
    many = cli.ok("sql", "SELECT value FROM range(5000)")
    assert "the first 1000 rows" in many


def test_search(cli: Cli, table: str) -> None:
    vectors = pa.array([[float(n), 1.0] for n in range(10)], pa.list_(pa.float32(), 2))
    cli.server.lake().create(table, pa.table({"id": range(10), "v": vectors}))
    search = ("search", table, "--vector", "[3, 1]", "--columns", "id", "--format", "json")
    found = [json.loads(line) for line in cli.ok(*search, "--k", "2").splitlines()]
    assert found[0] == {"id": 3, "_distance": 0.0}
    assert {row["id"] for row in found[1:]} <= {2, 4}
    found = cli.ok(*search, "--k", "1", "--where", "id > 6")
    assert json.loads(found)["id"] == 7
    assert cli.run("search", table).returncode == 2
    assert cli.run("search", table, "--vector", "[x]").returncode == 2
    refused = cli.run("search", table, "--text", "a cat")
    assert "which model" in refused.stderr


def test_errors_of_no_job(cli: Cli) -> None:
    assert "none" in cli.fails(1, "jobs", "errors", "none")
