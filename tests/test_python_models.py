"""The built-in models give what torch gave, and pictures are decoded whatever they are."""

import base64
import contextlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lakebed.models import RowError, load
from lakebed.models.model import Model, Precision, Prepared
from lakebed.models.onnx_session import DeviceMissing, Session, open_session
from lakebed.models.pictures import PICTURE_PIXELS_MAX, SIDE, decode_picture
from lakebed.worker.main import default_cache
from support.model_inputs import TEXTS, pixels

GOLDEN = Path(__file__).parent / "golden/model_vectors.json"
TEXT, PICTURE = "all-MiniLM-L6-v2", "efficientnet-lite0"


def golden(name: str) -> np.ndarray:
    """What torch computed; see scripts/model_references.py."""
    entry = json.loads(GOLDEN.read_text())[name]
    return np.frombuffer(base64.b64decode(entry["float32"]), "<f4").reshape(entry["shape"])


@pytest.fixture(scope="module")
def text_model() -> Model:
    return load(TEXT, default_cache(), "cpu")


@pytest.fixture(scope="module")
def picture_model() -> Model:
    return load(PICTURE, default_cache(), "cpu")


def prepared(model: Model, cells: list[str | bytes]) -> list[Prepared]:
    """Cells that can be decoded."""
    rows = model.prepare(cells)
    assert all(isinstance(row, Prepared) for row in rows), rows
    return rows


# ---- the same numbers as torch ----------------------------------------------------------------


def test_texts_as_torch_has_them(text_model: Model) -> None:
    rows = prepared(text_model, TEXTS)
    assert max(row.cost for row in rows) == 128
    alone = np.concatenate([text_model.compute([row]) for row in rows])
    together = text_model.compute(rows)
    for found in (alone, together):
        assert found.shape == (len(TEXTS), text_model.dimensions)
        assert np.abs(found - golden(TEXT)).max() < 1e-5


def test_pictures_as_torch_has_them(picture_model: Model) -> None:
    rows = [Prepared(picture, picture.nbytes, 1) for picture in pixels()]
    found = picture_model.compute(rows)
    assert found.shape == (4, picture_model.dimensions)
    assert np.abs(found - golden(PICTURE)).max() < 1e-5


@pytest.mark.parametrize(("name", "off"), [(TEXT, 1e-3), (PICTURE, 2e-2)])
def test_half_precision_is_near(name: str, off: float) -> None:
    """On a CPU, which computes it by way of float32 in part: what is rounded is the weights and
    what passes between the layers."""
    half = load(name, default_cache(), "cpu", 1, Precision.FP16)
    rows = prepared(half, TEXTS) if name == TEXT else [Prepared(p, p.nbytes, 1) for p in pixels()]
    found = half.compute(rows)
    assert found.dtype == np.float32
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    expected = golden(name)
    assert 1e-6 < np.abs(found - expected).max() < off
    assert (found * expected).sum(axis=1).min() > 0.999


def test_another_precision_is_the_same_model_and_another_file(tmp_path: Path) -> None:
    whole = load(PICTURE, tmp_path, "cpu", 1)
    half = load(PICTURE, tmp_path, "cpu", 1, Precision.FP16)
    assert (whole.precision, half.precision) == (Precision.FP32, Precision.FP16)
    assert (whole.name, whole.digest) == (half.name, half.digest)
    sizes = {file.stem[-5:]: file.stat().st_size for file in (tmp_path / "models").iterdir()}
    assert sizes["-fp16"] < 0.55 * sizes[f"{whole.digest[-2:]}-r1"]


@pytest.mark.parametrize(
    ("asked", "device", "found"),
    [
        ("auto", "cpu", "fp32"),
        ("auto", "cuda:1", "fp16"),
        ("fp32", "cuda:0", "fp32"),
        ("fp16", "cpu", "fp16"),
    ],
)
def test_precision_by_device(asked: str, device: str, found: str) -> None:
    assert Precision(asked).on(device) is Precision(found)


class Sessions:
    """onnxruntime's sessions on a machine that says it has CUDA, and where it fails or does not."""

    def __init__(self, fails: bool, is_silent: bool) -> None:
        self.fails = fails
        self.is_silent = is_silent
        self.opened: list[tuple[str, list[Any]]] = []

    def __call__(self, graph: str, _: object, providers: list[Any]) -> "Sessions":
        self.opened.append((graph, providers))
        if self.fails and len(providers) > 1:
            raise RuntimeError("no driver")
        return self

    def get_providers(self) -> list[str]:
        """Where the session runs."""
        names = [it if isinstance(it, str) else it[0] for it in self.opened[-1][1]]
        return ["CPUExecutionProvider"] if self.is_silent else names


def opened(
    monkeypatch: pytest.MonkeyPatch, sessions: Sessions, device: str, precision: str
) -> Session:
    known = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: known)
    monkeypatch.setattr(onnxruntime, "InferenceSession", sessions)
    return open_session(lambda on: Path(on.value), device, 3, Precision(precision))


@pytest.mark.parametrize(
    ("device", "asked", "precision", "tf32"),
    [
        ("auto", "auto", "fp16", "1"),
        ("cuda:1", "auto", "fp16", "1"),
        ("cuda:1", "fp32", "fp32", "0"),
    ],
)
def test_a_session_on_cuda(
    monkeypatch: pytest.MonkeyPatch, device: str, asked: str, precision: str, tf32: str
) -> None:
    """What is asked of onnxruntime; whether a GPU does it is not seen here."""
    sessions = Sessions(fails=False, is_silent=False)
    session = opened(monkeypatch, sessions, device, asked)
    index = "1" if device == "cuda:1" else "0"
    assert (session.device, session.lanes) == (f"cuda:{index}", 2)
    assert session.precision is Precision(precision)
    [(graph, [(provider, options), _])] = sessions.opened
    assert (graph, provider) == (precision, "CUDAExecutionProvider")
    assert (options["device_id"], options["use_tf32"]) == (index, tf32)


@pytest.mark.parametrize(("fails", "is_silent"), [(True, False), (False, True)])
def test_where_cuda_does_not_start(
    monkeypatch: pytest.MonkeyPatch, fails: bool, is_silent: bool
) -> None:
    sessions = Sessions(fails, is_silent)
    session = opened(monkeypatch, sessions, "auto", "auto")
    assert (session.device, session.lanes) == ("cpu", 3)
    # And computes as a CPU does, not as CUDA would have.
    assert session.precision is Precision.FP32
    assert sessions.opened[-1] == ("fp32", ["CPUExecutionProvider"])
    with pytest.raises(DeviceMissing, match="cuda:0"):
        opened(monkeypatch, Sessions(fails, is_silent), "cuda:0", "auto")


def test_texts_may_be_bytes_and_huge(text_model: Model) -> None:
    same, huge, broken = text_model.prepare([TEXTS[0].encode(), "word " * 200_000, b"\xff"])
    assert np.abs(text_model.compute([same]) - golden(TEXT)[0]).max() < 1e-5
    assert isinstance(huge, Prepared)
    assert huge.cost == 128
    assert isinstance(broken, RowError)
    assert "UTF-8" in str(broken)
    assert text_model.prepare([]) == []


def test_a_graph_is_written_once_and_whole(tmp_path: Path) -> None:
    first = load(PICTURE, tmp_path, "cpu")
    [graph] = (tmp_path / "models").iterdir()
    assert first.digest.removeprefix("sha256:") in graph.name
    before = graph.stat()
    load(PICTURE, tmp_path, "cpu")
    assert graph.stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_mode & 0o444 == 0o444


# ---- neighbours make sense --------------------------------------------------------------------


def test_a_caption_finds_its_like(stamps: Path, text_model: Model) -> None:
    texts = {
        path: path.read_text("utf-8").splitlines()[0]
        for path in sorted(stamps.rglob("*.txt"))
        if path.read_text("utf-8").strip()
    }
    captions = sorted(set(texts.values()))[:250]
    vectors = text_model.compute(prepared(text_model, captions))
    asked = text_model.compute(prepared(text_model, ["a big wild cat", "something to drink from"]))
    best = [[captions[i] for i in np.argsort(-vectors @ query)[:8]] for query in asked]
    assert any("cat" in caption.lower() or "lion" in caption.lower() for caption in best[0]), best
    assert any("cup" in caption.lower() or "glass" in caption.lower() for caption in best[1]), best


def test_a_picture_is_nearest_to_its_own_kind(stamps: Path, picture_model: Model) -> None:
    files = [
        file
        for category in ("animals", "vehicles", "food", "symbols")
        for file in sorted((stamps / category).rglob("*.png"))[:30]
    ]
    kinds = [file.relative_to(stamps).parts[0] for file in files]
    rows = prepared(picture_model, [file.read_bytes() for file in files])
    vectors = np.concatenate(
        [picture_model.compute(rows[at : at + 16]) for at in range(0, len(rows), 16)]
    )
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    right = np.mean([kinds[a] == kinds[b] for a, b in enumerate(near.argmax(axis=1))])
    chance = sum((kinds.count(kind) / len(kinds)) ** 2 for kind in set(kinds))
    assert right > 0.75, (right, chance)


# ---- pictures of all sorts --------------------------------------------------------------------


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as bytes."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def gradient(width: int = 320, height: int = 200) -> Image.Image:
    """Red to the right, green to the bottom."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 60)], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8), "RGB")


def middle(data: bytes) -> tuple[int, ...]:
    """The pixel in the middle of what is decoded."""
    found = decode_picture(data)
    assert found.shape == (SIDE, SIDE, 3)
    assert found.dtype == np.uint8
    return tuple(int(value) for value in found[SIDE // 2, SIDE // 2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(kind: str) -> None:
    assert middle(encoded(gradient(), kind)) == pytest.approx((128, 128, 60), abs=8)


def test_modes() -> None:
    grey = Image.new("L", (50, 50), 100)
    assert middle(encoded(grey, "PNG")) == (100, 100, 100)
    deep = Image.fromarray(np.full((50, 50), 100 * 256 + 7, np.uint16))
    assert middle(encoded(deep, "PNG")) == (100, 100, 100)
    assert middle(encoded(deep, "TIFF")) == (100, 100, 100)
    bits = Image.new("1", (50, 50), 1)
    assert middle(encoded(bits, "PNG")) == (255, 255, 255)
    palette = gradient().convert("P")
    assert middle(encoded(palette, "PNG")) == pytest.approx((128, 128, 60), abs=40)
    ink = gradient().convert("CMYK")
    assert middle(encoded(ink, "JPEG")) == pytest.approx((128, 128, 60), abs=12)


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (50, 50), (10, 20, 30, 0))
    assert middle(encoded(clear, "PNG")) == (255, 255, 255)
    half = Image.new("RGBA", (50, 50), (0, 0, 0, 128))
    assert middle(encoded(half, "PNG")) == pytest.approx((127, 127, 127), abs=1)
    grey = Image.new("LA", (50, 50), (0, 0))
    assert middle(encoded(grey, "PNG")) == (255, 255, 255)
    indexed = Image.new("P", (50, 50), 0)
    indexed.putpalette([9, 9, 9])
    assert middle(encoded(indexed, "PNG", transparency=0)) == (255, 255, 255)


def test_exif_rotation() -> None:
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by 90 degrees to the right
    turned = decode_picture(encoded(gradient(), "JPEG", exif=tag))
    # Red grew to the right as stored, so it grows downwards as shown.
    assert turned[200, 112, 0] > turned[20, 112, 0] + 100


def test_a_large_jpeg_costs_little() -> None:
    assert middle(encoded(gradient(6_000, 4_000), "JPEG")) == pytest.approx((128, 128, 60), abs=8)


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"hello", "no known format", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known", id="EPS"),
        pytest.param(png_of(20_990, 29_700), "claims more", id="623 Mpixel"),
        pytest.param(png_of(10_000, 10_000), "10000 x 10000", id="100 Mpixel"),
        pytest.param(png_of(2**31 - 1, 2**31 - 1), "claims|at most", id="2^62 pixels"),
        pytest.param(png_of(0, 5), "broken|no pixels|no known", id="no width"),
        pytest.param(png_of(100, 100, b"\0" * 500), "broken", id="cut inside"),
        pytest.param(encoded(gradient(), "JPEG")[:2_000], "broken", id="cut JPEG"),
        pytest.param(encoded(gradient(), "TIFF")[:500], "broken|no known", id="cut TIFF"),
        pytest.param(encoded(gradient().convert("F"), "TIFF"), "floating", id="floats"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_picture_is_an_error_of_its_row(data: bytes, words: str) -> None:
    with pytest.raises(RowError, match=words):
        decode_picture(data)


@pytest.mark.filterwarnings("ignore:Tag data:UserWarning", "ignore:Corrupt EXIF:UserWarning")
def test_damaged_bytes_give_pixels_or_an_error() -> None:
    """Nothing else may come out, or one row would take its task along."""
    state = np.random.default_rng(7)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        good = encoded(gradient(64, 48), kind)
        for _ in range(60):
            bad = bytearray(good)
            for _ in range(int(state.integers(1, 5))):
                bad[int(state.integers(len(bad)))] = int(state.integers(256))
            with contextlib.suppress(RowError):
                assert decode_picture(bytes(bad)).shape == (SIDE, SIDE, 3)


def test_a_broken_picture_harms_no_other(picture_model: Model) -> None:
    good = encoded(gradient(), "PNG")
    rows = picture_model.prepare([good, b"no", good])
    assert [isinstance(row, RowError) for row in rows] == [False, True, False]
    assert PICTURE_PIXELS_MAX < 2**27


def test_every_stamp_is_decoded(stamps: Path, picture_model: Model, soak: bool) -> None:
    files = sorted(stamps.rglob("*.png"))
    assert len(files) > 100
    for file in files if soak else files[::50]:
        [row] = picture_model.prepare([file.read_bytes()])
        assert isinstance(row, Prepared), f"{file}: {row}"
