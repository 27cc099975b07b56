"""Near duplicates of a column of texts, in one call."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from lakebed.connection import Connection
from lakebed.errors import InvalidArgument
from lakebed.operators.compute import begin, compute
from lakebed.operators.signatures import minhash

if TYPE_CHECKING:
    from lancedb.functions import UdfDefinition


@dataclass(frozen=True)
class NearDuplicates:
    """What was found.

    Attributes:
        rows: that have a cluster.
        clusters: of one row or more; as many rows are kept.
        duplicates: rows that are not kept.
        rows_failed: without a signature, because it could not be computed.
        source_version: the version of the table that was looked at: rows that came later are not
            covered.
        version: the version of the table that shows clusters and what is kept.
        raw: the result of the server's job.
    """

    rows: int
    clusters: int
    duplicates: int
    rows_failed: int
    source_version: int
    version: int
    raw: dict[str, Any] = field(repr=False)


def near_duplicates(
    db: Connection,
    table: str,
    column: str = "text",
    *,
    threshold: float | None = 0.8,
    bands: tuple[int, int] | None = None,
    ngram: int = 5,
    unit: str = "word",
    slots: int = 128,
    seed: int = 1,
    signature: str = "minhash",
    cluster: str = "cluster",
    keep: str = "keep",
    task_rows: int | None = None,
    timeout_s: float | None = None,
) -> NearDuplicates:
    """Finds rows with nearly the same text: each gets the number of its cluster, and one row of
    each cluster is marked as the one to keep.

    Three columns are made: signatures, which workers compute (`lakebed.operators.minhash`), and the
    cluster and the mark, which the server fills from them. Called again, it computes the signatures
    of rows that are new or whose text changed, and clusters anew. The first call needs a key of the
    role `admin` and the others one of `write`.

    Args:
        column: of texts. Null, and texts without a word, are like nothing else.
        threshold: the estimated Jaccard similarity of their shingles from which on two texts are
            near duplicates, 0.5 to 1. None: sharing a band is enough.
        bands: how signatures are cut: bands, and slots of each. Chosen by the threshold when None.
        ngram: words, or characters, of one shingle.
        unit: `word`, or `character` for languages that are written without spaces.
        slots: bytes of a signature: the estimate of a similarity s is off by sqrt(s (1 - s) /
            slots).
        seed: of the hash functions.
        signature: the column for signatures.
        cluster: the column for clusters: the smallest row id of each.
        keep: the column for marks: true in the row whose id is its cluster.
        task_rows: rows of one task of a worker.
        timeout_s: for the signatures and for the clusters.

    Raises:
        InvalidArgument: a column is there and is of something else, or the rows are too many for
            the server's limit.
        JobFailed: a job ended otherwise than by being done.
        DeadlineExceeded: a job had not ended in time; it goes on.
    """
    if threshold is None and bands is None:
        raise InvalidArgument("near duplicates need a threshold or bands")
    constants = {"ngram": ngram, "unit": unit, "slots": slots, "seed": seed}
    computed = compute(
        db,
        table,
        cast("UdfDefinition", minhash),
        {"text": column},
        signature,
        constants=constants,
        task_rows=task_rows,
        timeout_s=timeout_s,
    )
    body: dict[str, Any] = {"signature": signature, "cluster": cluster, "keep": keep}
    if threshold is not None:
        body["threshold"] = threshold
    if bands is not None:
        body["bands"], body["band_slots"] = bands
    job = begin(db, table, "near_duplicates", body)
    found = job.wait(timeout_s, progress=False).raw["result"]
    return NearDuplicates(
        rows=found["rows"],
        clusters=found["clusters"],
        duplicates=found["duplicates"],
        rows_failed=computed.raw["result"]["rows_failed"],
        source_version=found["source_version"],
        version=found["version"],
        raw=found,
    )
