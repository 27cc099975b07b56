"""`lakebed import` of files whose format has rows: Parquet, CSV, JSON lines, Arrow, tar shards."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest

from support.cli import Cli, ended
from support.flight import Lake
from support.media import png
from support.server import LakebedServer


@pytest.fixture
def cli(server: LakebedServer, tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(server, home)


def people(rows: int = 1_000) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "name": [f'n {i}, "{i}"' for i in range(rows)],
            "score": [None if i % 7 == 0 else i / 4 for i in range(rows)],
            "good": [i % 2 == 0 for i in range(rows)],
        }
    )


def written(path: Path, rows: pa.Table) -> Path:
    """The rows in the format that the name says."""
    match path.suffix:
        case ".parquet":
            pa.parquet.write_table(rows, path, row_group_size=300, compression="zstd")
        case ".csv":
            pa.csv.write_csv(rows, path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
        case ".arrow":
            with pa.ipc.new_file(path, rows.schema) as writer:
                writer.write_table(rows, max_chunksize=200)
        case ".arrows":
            with pa.ipc.new_stream(path, rows.schema) as writer:
                writer.write_table(rows, max_chunksize=200)
        case ".feather":
            pa.feather.write_feather(rows, path, compression="lz4")
    return path


FORMATS = ("parquet", "csv", "jsonl", "arrow", "arrows", "feather")


@pytest.mark.parametrize("kind", FORMATS)
def test_rows(cli: Cli, lake: Lake, tmp_path: Path, table: str, kind: str) -> None:
    """The rows in their order, with their types; and nothing the second time, unless asked for."""
    path = written(tmp_path / f"people.{kind}", people())
    summary = cli.json("import", str(path), "--table", table)
    assert (summary["rows_added"], summary["files"]) == (1_000, 1)
    stored = lake.read(table)
    assert stored.sort_by("id").to_pylist() == people().to_pylist()
    assert stored.schema.types == people().schema.types
    again = cli.json("import", str(path), "--table", table)
    assert (again["rows_added"], again["files_unchanged"]) == (0, 1)
    assert cli.json("import", str(path), "--table", table, "--again")["rows_added"] == 1_000
    assert lake.read(table, columns=["id"]).num_rows == 2_000


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_parquet_codecs(cli: Cli, lake: Lake, tmp_path: Path, table: str, codec: str) -> None:
    path = tmp_path / "x.parquet"
    pa.parquet.write_table(people(50), path, compression=codec)
    cli.json("import", str(path), "--table", table)
    assert lake.read(table).to_pylist() == people(50).to_pylist()


def test_several_files_and_columns_that_are_missing(
    cli: Cli, lake: Lake, tmp_path: Path, table: str
) -> None:
    """The first file makes the table; a column that a later one lacks is null there."""
    one = written(tmp_path / "one.parquet", people(10))
    two = written(tmp_path / "two.parquet", people(5).drop_columns(["score"]))
    more = written(tmp_path / "more.parquet", people(5).append_column("extra", pa.array([1] * 5)))
    cli.json("import", str(one), str(two), "--table", table)
    assert lake.read(table).num_rows == 15
    assert "extra" in cli.fails(1, "import", str(more), "--table", table)
    assert lake.read(table).num_rows == 15, "nothing of a file that does not fit"


def test_bytes_become_blobs(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    pictures = [png(i + 1, 2) for i in range(20)]
    rows = pa.table({"id": range(20), "image": pa.array(pictures, pa.binary())})
    path = written(tmp_path / "x.parquet", rows)
    cli.json("import", str(path), "--table", table, "--blob-column", "image")
    assert lake.read(table, columns=["image"], blobs="bytes")["image"].to_pylist() == pictures
    kind = {c["name"]: c["type"] for c in cli.json("show", table)["columns"]}["image"]
    assert kind.startswith("Struct"), kind
    assert "`id`" in cli.fails(
        1, "import", str(path), "--table", f"{table}_2", "--blob-column", "id"
    )


def test_types_of_texts(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    """A value that the first rows did not announce is refused with its line, nothing is written;
    looking at all rows takes it in."""
    path = tmp_path / "x.csv"
    path.write_text("n\n" + "".join(f"{i}\n" for i in range(25_000)) + "many\n")
    refusal = cli.fails(1, "import", str(path), "--table", table)
    assert "--sample-rows" in refusal
    assert "many" in refusal
    assert cli.json("ls", table) == {"tables": []}, "no empty table is left"
    cli.json("import", str(path), "--table", f"{table}_2", "--sample-rows", "0")
    assert lake.read(f"{table}_2")["n"].to_pylist()[-1] == "many"
    lines = tmp_path / "x.jsonl"
    lines.write_text('{"a":1}\n' * 3 + '{"a":2,"b":3}\n')
    refusal = cli.fails(1, "import", str(lines), "--table", f"{table}_3", "--sample-rows", "2")
    assert "b" in refusal
    cli.json("import", str(lines), "--table", f"{table}_4")
    assert lake.read(f"{table}_4")["b"].to_pylist() == [None, None, None, 3]


def test_broken_files(cli: Cli, tmp_path: Path, table: str) -> None:
    """Each is refused by name, with nothing written and no panic."""
    whole = {kind: written(tmp_path / f"w.{kind}", people()).read_bytes() for kind in FORMATS}
    array = tmp_path / "array.json"
    array.write_text('[{"a":1}]')
    assert "JSON lines" in cli.fails(1, "import", str(array), "--table", table)
    for kind in FORMATS:
        for name, data in {
            "empty": b"",
            "half": whole[kind][: len(whole[kind]) // 2],
            "zeros": b"\0" * 5_000,
        }.items():
            if (kind, name) in {("csv", "half"), ("csv", "zeros")}:
                continue
            path = tmp_path / f"{name}.{kind}"
            path.write_bytes(data)
            refusal = cli.fails(1, "import", str(path), "--table", f"{table}_{kind}_{name}")
            assert path.name in refusal
    secret = written(tmp_path / "secret.csv", people(3))
    secret.chmod(0)
    cli.heeds_modes()
    assert "denied" in cli.fails(1, "import", str(secret), "--table", f"{table}_secret")
    quote = tmp_path / "quote.csv"
    quote.write_bytes(b'a,b\n1,"' + b"x" * (70 << 20))
    cli.fails(1, "import", str(quote), "--table", f"{table}_quote", "--sample-rows", "1")


@pytest.mark.timeout(300)
def test_rows_of_any_length(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    """Short rows and then long ones, with quotes and ends of lines in them."""

    def texts() -> Iterator[str]:
        yield from (f"short {at}" for at in range(3_000))
        yield from (f'long {at}, "quoted"\r\n\n' + "x" * 30_000 for at in range(2_600))

    rows = pa.table({"id": range(5_600), "text": list(texts())})
    path = written(tmp_path / "long.csv", rows)
    assert path.stat().st_size > 64 << 20
    assert cli.json("import", str(path), "--table", table)["rows_added"] == 5_600
    assert lake.read(table).sort_by("id")["text"].to_pylist() == rows["text"].to_pylist()


@pytest.mark.timeout(300)
def test_records_and_columns_without_end(cli: Cli, tmp_path: Path, table: str) -> None:
    zeros = tmp_path / "zeros.csv"
    with zeros.open("wb") as file:
        file.truncate(300 << 20)
    out, err, peak = ended(cli.start("import", str(zeros), "--table", table))
    assert (out, "a record has more than" in err) == ("", True), err
    assert peak < 512 << 20
    wide = tmp_path / "wide.csv"
    wide.write_text(",".join(f"c{at}" for at in range(16_385)) + "\n")
    assert "16384" in cli.fails(1, "import", str(wide), "--table", table)
    wide = wide.with_suffix(".jsonl")
    wide.write_text(json.dumps({f"c{at}": at for at in range(16_385)}) + "\n")
    assert "16384" in cli.fails(1, "import", str(wide), "--table", table)


def test_files_of_one_name(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    """Rows are stored under no path, so that names do not matter."""
    paths = [tmp_path / folder / "rows.csv" for folder in "ab"]
    for at, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(f"id\n{at}\n")
    assert cli.json("import", *map(str, paths), "--table", table)["rows_added"] == 2
    assert sorted(lake.read(table)["id"].to_pylist()) == [0, 1]


def test_a_byte_order_mark(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    for name, text in {"x.csv": "a,b\n1,2\n", "x.jsonl": '{"a":1,"b":2}\n'}.items():
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        cli.json("import", str(tmp_path / name), "--table", table)
    assert lake.read(table).to_pylist() == [{"a": 1, "b": 2}] * 2


def test_lists(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    """A batch of lists that is larger than a message is cut, and a row of it is no large one."""
    kind = pa.list_(pa.int64())
    values = [list(range(at, at + 5_000)) for at in range(1_500)]
    rows = pa.table({"id": range(1_500), "values": pa.array(values, kind)})
    path = tmp_path / "lists.arrow"
    with pa.ipc.new_file(path, rows.schema) as writer:
        writer.write_table(rows)
    assert cli.json("import", str(path), "--table", table)["rows_added"] == 1_500
    stored = lake.read(table).sort_by("id")
    assert stored["values"].combine_chunks().equals(rows["values"].combine_chunks())


def shard(path: Path, samples: range, extra: dict[str, bytes] | None = None) -> None:
    with tarfile.open(path, "w") as tar:
        for i in samples:
            for end, data in {
                "png": png(i + 1, 1),
                "cls": str(i % 3).encode(),
                "txt": f"caption {i}\n".encode(),
                "json": json.dumps({"i": i}).encode(),
                **(extra or {}),
            }.items():
                info = tarfile.TarInfo(f"train/{i:05}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_tar_shards(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    """As WebDataset writes them; a column that only one shard has is null in the others."""
    paths = [tmp_path / f"shard-{at}.tar" for at in range(2)]
    shard(paths[0], range(40))
    shard(paths[1], range(40, 60), {"seg.png": b"mask"})
    summary = cli.json("import", *map(str, paths), "--table", table)
    assert (summary["files"], summary["rows_added"]) == (2, 60)
    rows = lake.read(table, blobs="bytes").sort_by("key").to_pylist()
    assert rows[45] == {
        "key": "train/00045",
        "png": png(46, 1),
        "cls": 0,
        "txt": "caption 45",
        "json": '{"i": 45}',
        "seg_png": b"mask",
    }
    assert rows[0]["seg_png"] is None
    cut = tmp_path / "cut.tar"
    cut.write_bytes(paths[0].read_bytes()[:-20_000])
    assert "cut.tar" in cli.fails(1, "import", str(cut), "--table", table)
    assert lake.read(table, columns=["key"]).num_rows == 60


def test_a_tar_with_an_endless_name(cli: Cli, tmp_path: Path, table: str) -> None:
    path = tmp_path / "names.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("a" * (2 << 20) + ".txt"))
    refusal = cli.fails(1, "import", str(path), "--table", table)
    assert "description of a member" in refusal


@pytest.mark.timeout(300)
def test_wide_rows_keep_memory_bounded(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    rows = pa.table(
        {"id": range(60), "data": pa.array([bytes([i]) * (4 << 20) for i in range(60)])}
    )
    path = tmp_path / "wide.parquet"
    pa.parquet.write_table(rows, path, compression="zstd")
    cli.json("import", str(path), "--table", table)
    assert lake.read(table, columns=["id"]).num_rows == 60


def test_a_lance_data_set(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    rows = people(5_000)
    kinds = pa.schema([("id", pa.int64()), ("name", pa.string())])
    blobs = pa.table(
        [rows["id"], rows["name"], [bytes([i % 251]) * (i * 7 % 90_000) for i in range(5_000)]],
        schema=kinds.append(
            pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        ),
    )
    folder = tmp_path / "people.lance"
    lance.write_dataset(blobs.slice(0, 3_000), folder, data_storage_version="2.2")
    lance.write_dataset(blobs.slice(3_000), folder, mode="append", data_storage_version="2.2")
    lance.dataset(folder).delete("id = 17")
    said = cli.ok("import", str(folder), "--table", table)
    assert "4999 rows added" in said
    found = lake.read(table, blobs="bytes").sort_by("id")
    expected = blobs.filter(pa.compute.not_equal(blobs["id"], 17))
    assert found["id"].to_pylist() == expected["id"].to_pylist()
    assert found["data"].to_pylist() == expected["data"].to_pylist()
    # The same version again adds nothing, a newer one its rows.
    assert "0 rows added" in cli.ok("import", str(folder), "--table", table)
    (tmp_path / "none.lance").mkdir()
    refused = cli.run("import", str(tmp_path / "none.lance"), "--table", table)
    assert refused.returncode == 1
    assert "none.lance" in refused.stderr
