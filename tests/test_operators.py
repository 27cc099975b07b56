"""The functions of `lakebed.operators` as workers run them, by the stock client and in one call."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from lancedb import col
from PIL import Image

import lakebed
from lakebed import operators
from lakebed.errors import InvalidArgument
from lakebed.models.efficientnet_lite0 import read_torch_legacy, write_graph
from lakebed.models.pictures import decode_picture
from lakebed.models.registry import EFFICIENTNET_LITE0
from support.data import blob_field
from support.flight import Lake
from support.server import LakebedServer
from support.texts import edited, made_texts, shingles, similarity
from support.worker import WHEELS, Jobs, Worker

SOON_S = 120.0
# The beginnings of signatures, by words and by characters.
GOLDEN = [
    "110059ed2d58ff9596436ec9917bb961",
    "c231fe2db2e725a53468e30873fc8b2c",
    "d21260d6320f86bc0d449b39bdbf8942",
]
GOLDEN_CHARACTERS = [
    "72b056e98fd673d51ebbc62406974d26",
    "8891be34fbf58982f9e44412cfeb9dad",
    "e08cba21303ba6f7d3a2ceb100dada96",
]


@pytest.fixture(scope="module")
def workers(module_server: LakebedServer) -> Iterator[None]:
    """Two workers with what the functions need."""
    made = [Worker(module_server, name, wheels=WHEELS).start() for name in ("o1", "o2")]
    Jobs(module_server).wait_for_workers(2)
    yield
    for worker in made:
        worker.kill()


@pytest.fixture
def db(server: LakebedServer) -> Iterator[lakebed.Connection]:
    """Our own client."""
    with lakebed.connect(f"http://{server.http_address}", server.admin_key) as connection:
        yield connection


def signatures(texts: list[str | None], **constants: Any) -> list[bytes]:
    """The signatures of texts, by the class itself."""
    found: list[bytes] = operators.minhash(**constants)(pa.array(texts, pa.string())).to_pylist()
    return found


def estimate(a: bytes, b: bytes) -> float:
    """The similarity that two signatures tell."""
    agreeing = np.frombuffer(a, np.uint8) == np.frombuffer(b, np.uint8)
    return float((agreeing.mean() - 1 / 256) / (255 / 256))


# ---- signatures ---------------------------------------------------------------------------------


def test_signatures_are_what_they_ever_were() -> None:
    # A change here makes stored signatures worthless.
    texts = ["a b c d e f g", "Größe über Ängste", "日本語の文章です"]
    assert [found.hex()[:32] for found in signatures(texts)] == GOLDEN
    assert [found.hex()[:32] for found in signatures(texts, unit="character")] == GOLDEN_CHARACTERS


def test_what_does_not_matter_in_a_text() -> None:
    same = ["The red car, in the RAIN!", "the  red_car\tin the rain", "«The» red—car (in the rain)"]
    assert len(set(signatures(same))) == 1
    assert len(set(signatures(["straße", "STRASSE"]))) == 2
    assert signatures(["", "  \n", "?!", None]) == [b""] * 4
    [few] = signatures(["red car"])
    assert len(few) == 128
    assert len(signatures(["x"], slots=16)[0]) == 16
    for kind in ("word", "character"):
        texts = ["", "red car", None, "ü", "a" * 3_000, "日本語", " b", "क्या यह हिन्दी है"]
        alone = [signatures([text], unit=kind)[0] for text in texts]
        # Neither neighbours nor where an array begins change anything.
        assert signatures(texts, unit=kind) == alone
        sliced = operators.minhash(unit=kind)(pa.array(["x", *texts], pa.large_string()).slice(1))
        assert sliced.to_pylist() == alone


def test_signatures_tell_the_similarity() -> None:
    texts = made_texts(300, words=80)
    errors = []
    for words in (1, 3, 8):
        others = [edited(text, words, number) for number, text in enumerate(texts)]
        for text, other, a, b in zip(
            texts, others, signatures(texts), signatures(others), strict=True
        ):
            true = similarity(shingles(text), shingles(other))
            spread = (true * (1 - true) / 128) ** 0.5
            errors.append((estimate(a, b) - true) / max(spread, 0.02))
    assert abs(np.mean(errors)) < 0.1
    assert 0.8 < np.std(errors) < 1.2


@pytest.mark.parametrize("wrong", [{"ngram": 0}, {"unit": "line"}, {"slots": 8}, {"slots": 2_000}])
def test_constants_of_signatures_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        operators.minhash(**wrong)


# ---- pictures -----------------------------------------------------------------------------------


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """The bytes of a picture."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def by_hand(grey: np.ndarray) -> dict[str, float | None]:
    """The statistics of luminances, pixel by pixel."""
    values = grey.astype(float)
    rows, columns = grey.shape
    laplacian = [
        values[y - 1, x] + values[y + 1, x] + values[y, x - 1] + values[y, x + 1] - 4 * values[y, x]
        for y in range(1, rows - 1)
        for x in range(1, columns - 1)
    ]
    return {
        "brightness": values.mean() / 255,
        "contrast": values.std() / 255,
        "dark": (grey <= 25).mean(),
        "bright": (grey >= 230).mean(),
        "sharpness": np.var(laplacian) if laplacian else None,
    }


def approximately(value: Any) -> Any:
    """Numbers to the precision of float32, and texts as they are."""
    return pytest.approx(value, rel=1e-6) if isinstance(value, float) else value


def check_statistics(found: dict[str, Any], grey: np.ndarray) -> None:
    expected = by_hand(grey)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert (found["height"], found["width"]) == grey.shape


def test_statistics_are_those_of_the_pixels(stamps: Path) -> None:
    look = operators.image_statistics()
    dice = np.random.default_rng(4)
    noise = dice.integers(0, 256, (600, 40), np.uint8)
    check_statistics(look(encoded(noise)), noise)
    found = look(encoded(np.full((2, 9), 255, np.uint8)))
    assert (found["sharpness"], found["bright"], found["contrast"]) == (None, 1.0, 0.0)
    colours = dice.integers(0, 256, (30, 31, 3), np.uint8)
    grey = np.round(colours @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    found = look(encoded(colours))
    assert (found["format"], found["mode"]) == ("PNG", "RGB")
    assert found["brightness"] == pytest.approx(grey.mean() / 255, abs=1e-3)
    # What is transparent lies on white.
    clear = np.zeros((5, 5, 4), np.uint8)
    assert look(encoded(clear))["brightness"] == 1.0
    deep = (np.arange(100, dtype=np.uint16) * 256 + 255).reshape(10, 10)
    check_statistics(look(encoded(deep)), (deep >> 8).astype(np.uint8))
    # A blurred picture is less sharp.
    koala = Image.open(stamps / "animals/marsupials/koala.png").convert("L")
    sharp = look(encoded(np.asarray(koala)))["sharpness"]
    blurred = koala.resize((40, 50)).resize(koala.size)
    assert look(encoded(np.asarray(blurred)))["sharpness"] < sharp / 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no known format"),
        (b"nonsense", "no known format"),
        (None, "broken"),
        ("large", "decoded"),
    ],
)
def test_broken_pictures_say_so(data: Any, says: str) -> None:
    whole = encoded(np.zeros((100, 100), np.uint8))
    look = operators.image_statistics(pixels_max=100 if data == "large" else 1 << 20)
    with pytest.raises(ValueError, match=says):
        look(data if isinstance(data, bytes) else whole if data == "large" else whole[:60])


def test_scores_are_one_together(stamps: Path) -> None:
    weights = read_torch_legacy(EFFICIENTNET_LITE0.weights_path())
    graph = write_graph(weights, scores=True).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = ("marsupials/koala", "mammals/equines/zebra")
    pixels = [decode_picture((stamps / f"animals/{name}.png").read_bytes()) for name in names]
    [scores] = session.run(["scores"], {"pixels": np.stack(pixels)})
    assert scores.shape == (2, 1_000)
    assert scores.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert scores.argmax(axis=1).tolist() == [105, 340]


@pytest.mark.usefixtures("workers")
@pytest.mark.timeout(300)
def test_pictures_on_workers(
    db: lakebed.Connection, lake: Lake, table: str, stamps: Path, server: LakebedServer
) -> None:
    names = ["marsupials/koala", "mammals/equines/zebra", "mammals/rodents/beaver"]
    pictures = [(stamps / f"animals/{name}.png").read_bytes() for name in names]
    rows = pa.table(
        [pa.array(range(5)), pa.array([*pictures, b"broken", None], pa.large_binary())],
        schema=pa.schema([pa.field("id", pa.int64()), blob_field("data")]),
    )
    lake.create(table, rows)

    done = operators.compute(
        db, table, operators.image_statistics, {"picture": "data"}, "seen", timeout_s=SOON_S
    )
    assert done.raw["result"] | {"rows_assigned": 3, "rows_failed": 2} == done.raw["result"]
    seen = lake.read(table).sort_by("id")["seen"].to_pylist()
    look = operators.image_statistics()
    for picture, found in zip(pictures, seen, strict=False):
        expected = look(picture)
        assert found == {name: approximately(value) for name, value in expected.items()}
    assert seen[3:] == [None, None]
    errors = {row["row_id"]: row["error"] for row in db.jobs.errors(done.job_id)}
    assert any("picture is of no known format" in error for error in errors.values())

    # The stock client, with a constant.
    remote = lancedb.connect(
        "db://default",
        api_key=server.admin_key,
        host_override=f"http://{server.http_address}",
    )
    tagging = remote.create_function(operators.image_tags)
    opened = remote.open_table(table)
    opened.add_columns({"tags": tagging(picture=col("data"), k=2)})
    ended = opened.refresh_column_async("tags").wait()
    assert (ended.rows_assigned, ended.rows_failed) == (3, 2)
    tags = lake.read(table).sort_by("id")["tags"].to_pylist()
    assert [found["labels"][0] for found in tags[:3]] == ["koala", "zebra", "beaver"]
    assert [found["classes"][0] for found in tags[:3]] == [105, 340, 337]
    for found in tags[:3]:
        assert len(found["labels"]) == 2
        assert 1 >= found["scores"][0] > 0.5 > found["scores"][1] > 0


@pytest.mark.usefixtures("workers")
def test_vectors_in_one_call(db: lakebed.Connection, lake: Lake, table: str, stamps: Path) -> None:
    picture = (stamps / "animals/marsupials/koala.png").read_bytes()
    rows = [pa.array(["a red car", "rain"]), pa.array([picture, b"broken"], pa.large_binary())]
    fields = [pa.field("text", pa.string()), blob_field("data")]
    lake.create(table, pa.table(rows, schema=pa.schema(fields)))
    done = operators.text_embedding(db, table, output="meaning", timeout_s=SOON_S)
    assert (done.rows_done, done.rows_failed) == (2, 0)
    done = operators.image_embedding(db, table, output="looks", timeout_s=SOON_S)
    assert (done.rows_done, done.rows_failed) == (2, 1)
    found = lake.read(table, columns=["meaning", "looks"]).to_pylist()
    assert [len(row["meaning"]) for row in found] == [384, 384]
    assert (len(found[0]["looks"]), found[1]["looks"]) == (1280, None)


# ---- a column of something else -----------------------------------------------------------------


@pytest.mark.usefixtures("workers")
def test_a_column_of_something_else_is_left_alone(
    db: lakebed.Connection, lake: Lake, table: str
) -> None:
    lake.create(table, pa.table({"text": ["a b", "c"], "other": ["x", "y"]}))

    def compute(inputs: dict[str, str], output: str, **constants: Any) -> Any:
        return operators.compute(
            db, table, operators.minhash, inputs, output, constants=constants, timeout_s=SOON_S
        )

    text = {"text": "text"}
    assert compute(text, "signature", ngram=2).raw["result"]["rows_assigned"] == 2
    assert compute(text, "signature", ngram=2).raw["result"]["rows_assigned"] == 0
    for inputs, output, constants, says in (
        (text, "other", {}, "not computed by `minhash`"),
        ({"text": "other"}, "signature", {}, "computed from"),
        (text, "signature", {"ngram": 3}, "computed with"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            compute(inputs, output, **constants)
    expected = signatures(["a b", "c"], ngram=2)
    assert lake.read(table)["signature"].to_pylist() == expected
