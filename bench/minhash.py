"""Near duplicates: signatures against rensa fed from memory, and the whole against datatrove."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger
from rensa import RMinHash

import lakebed
from bench.rounds import Comparison, compare
from lakebed import operators
from support.server import LakebedServer
from support.texts import edited, made_texts
from support.worker import WHEELS, Jobs, Worker

SIGNATURES_BAR = 1.0
WHOLE_BAR = 3.0
# With tables of 1,000 MB for the other benchmarks. datatrove takes milliseconds for a text.
TEXTS = 50_000
WHOLE_TEXTS = 10_000
WORDS = 170
# A text in ten is a copy of another one with up to three words changed.
COPIES = 0.1
NGRAM = 5
SLOTS = 128
# The bands of datatrove's own defaults.
BANDS = (14, 8)
WORKERS = 2
TASK_ROWS = 2_048
CHUNK = 1_000
TABLE = "texts"


def texts(count: int) -> list[str]:
    """Texts of made-up words, since no real ones lie in the cache, with planted near duplicates."""
    found = made_texts(count, words=WORDS, vocabulary=30_000, seed=17)
    dice = np.random.default_rng(18)
    for at in dice.choice(count, int(count * COPIES), replace=False):
        found[at] = edited(found[int(dice.integers(count))], int(dice.integers(0, 4)), int(at))
    return found


def by_rensa(rows: list[str]) -> None:
    """Signatures of shingles of words, by the call of rensa that makes least of Python."""
    for start in range(0, len(rows), CHUNK):
        shingles = []
        for text in rows[start : start + CHUNK]:
            words = text.lower().split()
            grams = zip(*(words[at:] for at in range(NGRAM)), strict=False)
            shingles.append([" ".join(gram) for gram in grams])
        RMinHash.digest_matrix_from_token_sets(shingles, SLOTS, 1)


class ByWhitespace(WordTokenizer):
    """Words are what whitespace parts: faster than any tokenizer that datatrove brings, and as the
    others here have it."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """The lines of a text."""
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Where its words begin and end."""
        return [word.span() for word in re.finditer(r"\S+", text)]


class ByDatatrove:
    """datatrove's pipeline up to what it would remove, over Parquet files of the same texts."""

    def __init__(self, folder: Path, rows: list[str]) -> None:
        self.folder = folder
        for part in range(WORKERS):
            table = pa.table({"text": rows[part::WORKERS]})
            (folder / "texts").mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / "texts" / f"{part}.parquet")
        # One line of its log for each task of each round says nothing here.
        logger.remove()

    def run(self) -> None:
        """All three stages."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS[0], hashes_per_bucket=BANDS[1])
        signatures, pairs, found = (str(work / name) for name in ("signatures", "pairs", "found"))
        stages = [
            (
                [
                    ParquetReader(str(self.folder / "texts")),
                    MinhashDedupSignature(signatures, config=config, language=ByWhitespace()),
                ],
                WORKERS,
            ),
            ([MinhashDedupBuckets(signatures, pairs, config=config)], BANDS[0]),
            ([MinhashDedupCluster(pairs, found, config=config)], 1),
        ]
        for number, (pipeline, tasks) in enumerate(stages):
            LocalPipelineExecutor(
                pipeline=pipeline,
                tasks=tasks,
                workers=min(tasks, WORKERS),
                logging_dir=str(work / f"log{number}"),
            ).run()

    def removed(self) -> int:
        """How many texts it would remove."""
        files = (self.folder / "work" / "found").glob("*.remove")
        return sum(file.stat().st_size for file in files) // 4


def run(server: LakebedServer, folder: Path, rounds: int, table_mb: int) -> list[Comparison]:
    """Two workers on all cores, against rensa in this process and datatrove in two."""
    rows = texts(max(TEXTS * table_mb // 1_000, 1_000))
    few = rows[: max(WHOLE_TEXTS * table_mb // 1_000, 1_000)]
    lake = server.lake()
    for name, of in (("many_texts", rows), ("texts", few)):
        lake.create(name, pa.table({"text": of}), timeout_s=600)
    lake.close()
    db = lakebed.connect(f"http://{server.http_address}", server.admin_key)
    workers = [Worker(server, f"bench-{n}", wheels=WHEELS).start() for n in range(WORKERS)]
    jobs = Jobs(server)
    datatrove = ByDatatrove(folder / "datatrove", few)
    found: list[operators.NearDuplicates] = []

    def whole() -> None:
        done = operators.near_duplicates(
            db, "texts", threshold=None, bands=BANDS, ngram=NGRAM, slots=SLOTS, task_rows=TASK_ROWS
        )
        found.append(done)

    def without_columns() -> None:
        if found:
            body = {"columns": ["minhash", "cluster", "keep"]}
            server.http().ok("POST", "/v1/table/texts/drop_columns/", body)

    def signatures() -> None:
        done = operators.compute(
            db,
            "many_texts",
            operators.minhash,
            {"text": "text"},
            "minhash",
            constants={"ngram": NGRAM, "slots": SLOTS},
            recompute=True,
            task_rows=TASK_ROWS,
        )
        assert done.raw["result"]["rows_assigned"] == len(rows), done

    def about(count: int) -> str:
        cores = os.cpu_count()
        return f"{count:,} made-up texts of {WORDS} words, {WORKERS} workers on {cores} cores"

    try:
        jobs.wait_for_workers(WORKERS)
        compared = [
            compare(
                "near duplicates",
                "datatrove, without writing what it keeps",
                about(len(few)),
                WHOLE_BAR,
                rounds,
                whole,
                datatrove.run,
                before=without_columns,
            )
        ]
        # The same pairs by other hash functions: about as many.
        ours, theirs = found[-1].duplicates, datatrove.removed()
        assert abs(ours - theirs) < 0.02 * theirs, (ours, theirs)
        compared.append(
            compare(
                "minhash signatures",
                "rensa fed from memory",
                about(len(rows)),
                SIGNATURES_BAR,
                rounds,
                signatures,
                lambda: by_rensa(rows),
            )
        )
        return compared
    finally:
        for worker in workers:
            worker.kill()
        db.close()
