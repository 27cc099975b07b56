"""Columns of vectors by the built-in models, in one call."""

from lakebed.connection import Connection
from lakebed.jobs import JobStatus
from lakebed.models.registry import EFFICIENTNET_LITE0, MINILM


def text_embedding(
    db: Connection,
    table: str,
    column: str = "text",
    *,
    output: str = "vector",
    where: str | None = None,
    recompute: bool = False,
    timeout_s: float | None = None,
) -> JobStatus:
    """Fills a column with the vectors of texts, 384 numbers of length 1, by `all-MiniLM-L6-v2`, and
    waits for it. The column is made where it is missing; rows that have a vector keep it.

    Args:
        where: rows to compute, as a condition in SQL; all without one.
        recompute: whether rows that have a vector get another.

    Raises:
        JobFailed: the job ended otherwise than by being done.
        DeadlineExceeded: it had not ended in time; it goes on.
    """
    job = db.jobs.submit(
        table, input=column, output=output, model=MINILM.name, where=where, recompute=recompute
    )
    return job.wait(timeout_s, progress=False)


def image_embedding(
    db: Connection,
    table: str,
    column: str = "data",
    *,
    output: str = "vector",
    where: str | None = None,
    recompute: bool = False,
    timeout_s: float | None = None,
) -> JobStatus:
    """The same for pictures, 1,280 numbers of length 1, by `efficientnet-lite0`."""
    job = db.jobs.submit(
        table,
        input=column,
        output=output,
        model=EFFICIENTNET_LITE0.name,
        where=where,
        recompute=recompute,
    )
    return job.wait(timeout_s, progress=False)
