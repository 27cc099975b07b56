"""The README's Python runs as printed against a fresh server, with the pictures it speaks of."""

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from support import readme
from support.server import LakebedServer


@pytest.fixture
def visited(
    make_server: Callable[..., LakebedServer], stamps: Path
) -> tuple[LakebedServer, str, str]:
    """A server that was started as `make serve` starts it, what the README's blocks printed when
    they ran against it, and the key that they found."""
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    home = server.work / "home"
    cache = home / ".cache/lakebed/data"
    cache.mkdir(parents=True)
    (cache / "tuxpaint-stamps-default").symlink_to(stamps.parents[3])
    printed = readme.run(server.http_address, home)
    key = next((home / ".config/lakebed").glob("*.key")).read_text().strip()
    return server, printed, key


@pytest.mark.timeout(400)
def test_the_readme_runs_and_the_pictures_are_whole(
    visited: tuple[LakebedServer, str, str], stamps: Path
) -> None:
    """Byte for byte at two versions, checked by another client than the README's own loop."""
    server, printed, key = visited
    first, second = map(ast.literal_eval, printed.splitlines()[:2])
    files = {path.relative_to(stamps).as_posix(): path for path in stamps.rglob("*.png")}
    assert len(files) == 796
    assert (first["version"], first["rows"]) == (1, 796)
    assert second["rows"] > 700
    lake = server.lake(key)
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    for version in (first["version"], second["version"]):
        rows = lake.read("stamps", version=version, blobs="bytes", columns=["path", "data"])
        found = {row["path"]: hashlib.sha256(row["data"]).hexdigest() for row in rows.to_pylist()}
        assert rows.num_rows == 796
        assert found == digests
    captions = lake.read("stamps", version=second["version"], columns=["path", "caption"])
    captions = captions.to_pylist()
    with_text = [row for row in captions if row["caption"]]
    assert len(with_text) == second["rows"]
    sample = with_text[0]
    text = files[sample["path"]].with_suffix(".txt").read_text("utf-8")
    assert sample["caption"] == text.splitlines()[0]
    assert lake.read("stamps", version=1, columns=["caption"])["caption"].null_count == 796
    assert lake.read("stamps", tag="captioned").num_rows == 796
    assert lake.read("stamps").num_rows == 797


@pytest.mark.timeout(400)
def test_captions_did_not_rewrite_the_pictures(
    visited: tuple[LakebedServer, str, str], stamps: Path
) -> None:
    server, _, _ = visited
    pictures = sum(path.stat().st_size for path in stamps.rglob("*.png"))
    movie = len(b"not really a movie ") * 2_000_000
    stored = server.stored_bytes()
    assert pictures + movie < stored < pictures + movie + (4 << 20)
