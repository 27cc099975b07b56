"""The command line against a running server, as a person or a script uses it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cli import Cli
from support.data import blobs, numbered
from support.flight import Lake
from support.server import LakebedServer


@pytest.fixture
def cli(server: LakebedServer, tmp_path: Path) -> Cli:
    return Cli(server, tmp_path)


@pytest.fixture
def cars(lake: Lake, table: str) -> str:
    """A table in a namespace in three versions."""
    name = f"{table}$cars"
    lake.create(name, numbered(3))
    lake.write(name, numbered(2, start=3))
    lake.write(name, numbered(1, start=5))
    return name


# ---- ls and show ----------------------------------------------------------------------------


def test_ls(cli: Cli, lake: Lake, cars: str, table: str) -> None:
    lake.create(f"{table}_b", numbered(1))
    assert cli.json("ls", table) == {"tables": [cars, f"{table}_b"]}
    lines = cli.ok("ls", table).split()
    assert lines == ["table", cars, f"{table}_b"]
    assert cli.json("ls", f"{table}_b") == {"tables": [f"{table}_b"]}
    assert cli.json("ls", "no such prefix") == {"tables": []}
    everything = cli.json("ls")["tables"]
    assert {cars, f"{table}_b"} <= set(everything)
    assert everything == sorted(everything)


def test_ls_of_more_tables_than_a_page(own_server: LakebedServer, tmp_path: Path) -> None:
    """A thousand tables and one more are all listed, each once."""
    names = [f"t{i:04}" for i in range(1_001)]
    entries = {
        name: {"location": f"default/{name}.lance", "uid": f"{i:032x}"}
        for i, name in enumerate(names)
    }
    assert own_server.terminate() == 0
    folder = Path(own_server.data) / "_lakebed/catalog/default"
    folder.mkdir(parents=True)
    state = {"format": 1, "tables": entries, "dropped": {}}
    (folder / f"{1:020}.json").write_text(json.dumps(state))
    own_server.start()
    assert Cli(own_server, tmp_path).json("ls") == {"tables": names}


def test_ls_of_a_database(cli: Cli, server: LakebedServer, table: str) -> None:
    server.lake(database="team/other").create(table, numbered(1))
    assert cli.json("ls", table) == {"tables": []}
    assert cli.json("ls", table, "--database", "team/other") == {"tables": [table]}
    assert table in cli.ok("ls", LAKEBED_DATABASE="team/other")


def test_show(cli: Cli, cars: str) -> None:
    shown = cli.json("show", cars)
    assert (shown["table"], shown["version"], shown["rows"]) == (cars, 3, 6)
    assert shown["profile"] == "open"
    assert [column["name"] for column in shown["columns"]] == ["id", "name"]
    assert shown["location"].endswith("cars.lance")
    cli.ok("tag", "create", cars, "gold", "--version", "2")
    text = cli.ok("show", cars)
    for word in (cars, "open", "id", "name", "Int64", "gold"):
        assert word in text, word
    assert cli.json("show", cars)["tags"] == [{"name": "gold", "version": 2, "branch": None}]


def test_show_at_a_version_a_tag_and_a_time(cli: Cli, cars: str) -> None:
    cli.ok("tag", "create", cars, "gold", "--version", "2")
    assert cli.json("show", cars, "--at", "1")["rows"] == 3
    tagged = cli.json("show", cars, "--at", "gold")
    assert (tagged["version"], tagged["rows"]) == (2, 5)
    assert cli.json("show", cars, "--at", "2999-01-01T00:00:00Z")["version"] == 3
    assert "99" in cli.fails(1, "show", cars, "--at", "99")
    said = cli.fails(1, "show", cars, "--at", "gald")
    assert "gald" in said
    assert "gold" in said
    assert cli.fails(1, "show", cars, "--at", "2001-01-01T00:00:00Z")


def test_the_time_that_show_prints_names_its_version(cli: Cli, lake: Lake, cars: str) -> None:
    """What `show` says of a version's time, given back, is that version, in a read as well."""
    for version in (1, 2, 3):
        committed = cli.json("show", cars, "--at", str(version))["committed_at"]
        assert cli.json("show", cars, "--at", committed)["version"] == version
        assert lake.read(cars, as_of=committed).equals(lake.read(cars, version=version))


def test_show_of_a_table_with_blobs(cli: Cli, lake: Lake, table: str) -> None:
    lake.create(table, blobs([b"x"]))
    shown = cli.json("show", table)
    assert [column["name"] for column in shown["columns"]] == ["id", "data"]
    assert "blob" in json.dumps(shown["columns"][1]).lower()


def test_a_table_that_is_not_there(cli: Cli, cars: str) -> None:
    wrong = cars[:-1]
    said = cli.fails(1, "show", wrong)
    assert wrong in said
    assert cars in said, "names the nearest"
    assert "request" in said, "and the request's id"


# ---- tags -----------------------------------------------------------------------------------


def test_tags(cli: Cli, lake: Lake, cars: str) -> None:
    assert cli.json("tag", "list", cars)["tags"] == {}
    assert "version 3" in cli.ok("tag", "create", cars, "newest")
    cli.ok("tag", "create", cars, "gold", "--version", "2")
    tags = cli.json("tag", "list", cars)["tags"]
    assert {name: tag["version"] for name, tag in tags.items()} == {"gold": 2, "newest": 3}
    text = cli.ok("tag", "list", cars).split()
    assert "gold" in text
    assert "newest" in text
    assert lake.read(cars, tag="gold").num_rows == 5
    assert "gold" in cli.fails(1, "tag", "create", cars, "gold", "--version", "1")
    assert lake.read(cars, tag="gold").num_rows == 5
    assert "99" in cli.fails(1, "tag", "create", cars, "x", "--version", "99")
    cli.ok("tag", "delete", cars, "gold")
    assert set(cli.json("tag", "list", cars)["tags"]) == {"newest"}
    assert "gold" in cli.fails(1, "tag", "delete", cars, "gold")


# ---- keys -----------------------------------------------------------------------------------


def test_keys_from_birth_to_revocation(cli: Cli, lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    done = cli.run("keys", "create", "--name", "a reader", "--role", "read")
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert "\n" not in key, "the key alone, for a script to take"
    key_id = key.split("_")[1]
    assert key_id in done.stderr
    assert cli.ok("ls", table, LAKEBED_API_KEY=key).split()[1] == table
    assert "role" in cli.fails(1, "tag", "create", table, "x", LAKEBED_API_KEY=key)
    assert cli.fails(1, "keys", "list", LAKEBED_API_KEY=key)
    listed = {entry["id"]: entry for entry in cli.json("keys", "list")["keys"]}
    assert (listed[key_id]["name"], listed[key_id]["role"]) == ("a reader", "read")
    text = cli.ok("keys", "list")
    assert "a reader" in text
    assert key not in text
    assert key_id in cli.ok("keys", "revoke", key_id)
    assert "revoked" in cli.fails(1, "ls", LAKEBED_API_KEY=key)
    states = {entry["id"]: entry["state"] for entry in cli.json("keys", "list")["keys"]}
    assert states[key_id] == "revoked"
    assert "nope" in cli.fails(1, "keys", "revoke", "nope")


def test_a_key_with_an_end(cli: Cli) -> None:
    made = cli.json("keys", "create", "--name", "x", "--role", "write", "--expires-in", "12h")
    listed = {entry["id"]: entry for entry in cli.json("keys", "list")["keys"]}
    assert listed[made["id"]]["expires_at"]
    assert cli.fails(2, "keys", "create", "--name", "x", "--role", "owner")
    assert cli.fails(2, "keys", "create", "--name", "x", "--role", "read", "--expires-in", "soon")
    assert cli.fails(2, "keys", "create", "--role", "read")


def test_a_lost_admin_key_is_replaced(
    make_server: Callable[..., LakebedServer], tmp_path: Path
) -> None:
    """Offline, by whoever owns the files: the old key is refused, other keys and all data stay."""
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    home = server.work / "home"
    cli = Cli(server, home)
    lake_id = server.http(None).get("/version").json()["lake_id"]
    path = home / f".config/lakebed/{lake_id}.key"
    old = path.read_text().strip()
    server.lake(old).create("t", numbered(3))
    reader = cli.ok("keys", "create", "--name", "r", "--role", "read", LAKEBED_API_KEY=old).strip()
    path.unlink()
    data = ("--data", str(server.data))
    offline = {"LAKEBED_URL": "", "LAKEBED_API_KEY": ""}
    said = cli.fails(1, "keys", "reset", *data, **offline)
    assert "holds the lake" in said, "not while a server has it open"
    assert server.terminate() == 0
    nowhere = home / "nowhere"
    said = cli.fails(1, "keys", "reset", "--data", str(nowhere), **offline)
    assert "no lake" in said
    assert not nowhere.exists()
    said = cli.ok("keys", "reset", *data, **offline)
    new = path.read_text().strip()
    assert str(path) in said
    assert new not in said
    assert path.stat().st_mode & 0o777 == 0o600
    assert new != old
    server.start()
    lost = server.lake(old)
    with lost.refuses("unauthenticated"):
        lost.read("t")
    assert server.lake(new).read("t").equals(numbered(3))
    assert server.lake(reader).read("t").equals(numbered(3))
    server.expect_log("reset")
    # A second one may go elsewhere, and one inside the lake is refused.
    assert server.terminate() == 0
    elsewhere = tmp_path / "elsewhere.key"
    cli.ok("keys", "reset", *data, "--api-key-file", str(elsewhere), **offline)
    assert elsewhere.read_text().strip() not in {old, new}
    inside = str(Path(server.data) / "admin.key")
    assert cli.run("keys", "reset", *data, "--api-key-file", inside, **offline).returncode != 0
    assert not Path(inside).exists()


# ---- what goes wrong ------------------------------------------------------------------------


def test_no_server_and_no_key(cli: Cli) -> None:
    said = cli.fails(1, "ls", LAKEBED_URL="http://127.0.0.1:1")
    assert "127.0.0.1:1" in said
    assert "key" in cli.fails(1, "ls", LAKEBED_API_KEY="")
    assert "key" in cli.fails(1, "ls", LAKEBED_API_KEY="wrong")
    for url in ("ftp://x", "127.0.0.1:10024", "http://x?y=1"):
        assert cli.fails(2, "ls", "--url", url)
    assert cli.ok("ls", "--url", f"http://{cli.server.http_address}/", LAKEBED_URL="") is not None
    assert cli.fails(2, "show")
    assert cli.fails(2, "tag")
    assert cli.fails(2, "ls", "--format", "xml")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(cli: Cli, shell: str) -> None:
    script = cli.ok("completion", shell, LAKEBED_URL="", LAKEBED_API_KEY="")
    for verb in ("serve", "ls", "show", "tag", "keys", "relocate"):
        assert verb in script, verb


def test_bash_completes_verbs_and_flags(cli: Cli, tmp_path: Path) -> None:
    """The script in a real bash: what a person gets for the tab key."""
    bash = shutil.which("bash")
    assert bash is not None
    path = tmp_path / "lakebed.bash"
    path.write_text(cli.ok("completion", "bash"))

    def complete(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        program = (
            f"source {path}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
            f"_lakebed lakebed '{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("lakebed", "sh") == ["show"]
    assert set(complete("lakebed", "tag", "")) >= {"create", "list", "delete"}
    assert "--allow-anonymous" in complete("lakebed", "serve", "--allow")
    assert set(complete("lakebed", "ls", "--format", "")) == {"table", "json"}
