"""Jobs: columns that a model computes on attached workers, and whatever else the server does by
itself."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lakebed._commands import encode
from lakebed._flight import FlightDoor
from lakebed._http import HttpDoor, quoted
from lakebed._retry import pause_s, retried
from lakebed._rows import Rows
from lakebed.errors import Busy, DeadlineExceeded, LakebedError, NotFound, Unavailable

DONE = "DONE"
ENDED = {DONE, "FAILED", "CANCELLED", "TIMED_OUT"}
# The table of a database in which the server keeps rows that got an error instead of a value.
ERRORS_TABLE = "job_errors"
# Named here, because `Jobs` has a method `list`.
Records = list[dict[str, Any]]
POLL_S_MAX = 2.0
# A wait goes on after these of one look: the job does not end because nobody sees it.
PASSING = (Unavailable, Busy, DeadlineExceeded)
FAILED_LOOKS_MAX = 60
PAGE = 100


@dataclass(frozen=True)
class JobStatus:
    """A job as it was when it was asked about.

    Attributes:
        state: `IN_PROGRESS`, `PAUSED`, `DONE`, `FAILED`, `CANCELLED` or `TIMED_OUT`.
        rows_done: rows that have their answer, where the job counts rows.
        rows_total: rows that it is about.
        rows_failed: rows whose answer is an error.
        failure: why the whole job failed.
        raw: the server's answer as it came.
    """

    job_id: str
    job_type: str
    state: str
    table: str | None
    created_at_ms: int | None
    rows_done: int | None
    rows_total: int | None
    rows_failed: int | None
    failure: str | None
    raw: dict[str, Any] = field(repr=False)

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED


class JobFailed(LakebedError):
    """A job that was waited for did not end well; `status` says how."""

    def __init__(self, status: JobStatus) -> None:
        why = f": {status.failure}" if status.failure else ""
        super().__init__(f"job {status.job_id} is {status.state}{why}")
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return JobFailed, (self.status,)


class Job:
    """A handle of one job."""

    def __init__(self, jobs: "Jobs", job_id: str) -> None:
        self._jobs = jobs
        self.id = job_id

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def describe(self) -> JobStatus:
        """How it stands."""
        return self._jobs.describe(self.id)

    def pause(self) -> None:
        """Gives no more of its tasks away until it is resumed."""
        self._jobs.pause(self.id)

    def resume(self) -> None:
        """Goes on."""
        self._jobs.resume(self.id)

    def cancel(self) -> None:
        """Ends it; what it wrote before stays."""
        self._jobs.cancel(self.id)

    def errors(self, limit: int = 100) -> Records:
        """Rows that got an error instead of a value; see `Jobs.errors`."""
        return self._jobs.errors(self.id, limit)

    def wait(self, timeout_s: float | None = None, *, progress: bool | None = None) -> JobStatus:
        """Waits for the end; see `Jobs.wait`."""
        return self._jobs.wait(self.id, timeout_s, progress=progress)


class Jobs:
    """The jobs of a database."""

    def __init__(self, http: HttpDoor, flight: FlightDoor) -> None:
        self._http = http
        self._flight = flight

    def submit(
        self,
        table: str,
        *,
        input: str,
        output: str,
        model: str,
        where: str | None = None,
        row_set: str | None = None,
        recompute: bool = False,
        task_rows: int | None = None,
        priority: int = 0,
        max_workers: int | None = None,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, int] | None = None,
        timeout_s: int | None = None,
    ) -> Job:
        """Computes a column by a model, on attached workers.

        Args:
            input: the column that the model reads.
            output: the column of vectors; made where it is missing.
            where: rows to compute, as a condition in SQL; all without one.
            row_set: only rows of this set, `NAME` or `NAME@VERSION`.
            recompute: whether rows that have a vector get another.
            task_rows: rows of one task; as many as a worker does in a few seconds without it.
            priority: jobs of a higher one go first; -100 to 100.
            max_workers: workers that may have tasks of it at a time.
            labels: labels that a worker has to have.
            resources: what each task takes of a worker: `cpus`, `gpus`, `gpu_memory_mb`.
            timeout_s: seconds after which it is called off and `TIMED_OUT`.

        Raises:
            LakebedError: by kind; `NotFound` where table or column is missing, `InvalidArgument`
                where no worker has the model or the columns do not fit it.
        """
        body: dict[str, Any] = {"table": table, "input": input, "output": output, "model": model}
        if where is not None:
            body["where"] = where
        if row_set is not None:
            body["row_set"] = row_set
        if recompute:
            body["recompute"] = True
        if task_rows is not None:
            body["task_rows"] = task_rows
        if priority:
            body["priority"] = priority
        if max_workers is not None:
            body["max_workers"] = max_workers
        if labels:
            body["labels"] = dict(labels)
        if resources:
            body["resources"] = dict(resources)
        if timeout_s is not None:
            body["timeout_s"] = timeout_s
        answer = self._post("submit", body, changes=True)
        return Job(self, str(answer["job_id"]))

    def refresh(
        self,
        table: str,
        column: str,
        *,
        where: str | None = None,
        row_set: str | None = None,
        recompute: bool = False,
    ) -> Job:
        """Fills a column that a function or SQL computes: rows without a value, and those whose
        inputs changed. The columns of one call of a function are filled together.

        Args:
            where: rows to compute, as a condition in SQL; all without one.
            row_set: only rows of this set, `NAME` or `NAME@VERSION`.
            recompute: whether rows that have a value get another.

        Raises:
            LakebedError: by kind; `NotFound` where table or column is missing, `InvalidArgument`
                where nothing computes the column.
        """
        body: dict[str, Any] = {"column": column}
        if where is not None:
            body["where"] = where
        if row_set is not None:
            body["row_set"] = row_set
        if recompute:
            body["recompute"] = True
        path = f"/v1/table/{quoted(table)}/backfill_column"
        answer = self._http.request("POST", path, body, changes=True)
        return Job(self, str(answer.json()["job_id"]))

    def get(self, job_id: str) -> Job:
        """A handle of a job whose id is known; asks nothing."""
        return Job(self, job_id)

    def list(self) -> Iterator[JobStatus]:
        """All jobs that are remembered, newest first; further pages are fetched on the way."""
        token: str | None = None
        while True:
            body: dict[str, Any] = {"limit": PAGE}
            if token is not None:
                body["page_token"] = token
            answer = self._post("list", body)
            for job in answer["jobs"]:
                yield _status(job)
            token = answer.get("page_token") or None
            if token is None:
                return

    def describe(self, job_id: str) -> JobStatus:
        """How a job stands.

        Raises:
            NotFound: no job has this id.
        """
        return _status(self._post("describe", {"job_id": job_id}))

    def pause(self, job_id: str) -> None:
        """Gives no more tasks of a job away; those under way may end."""
        self._post("pause", {"job_id": job_id})

    def resume(self, job_id: str) -> None:
        """Goes on with a paused job."""
        self._post("resume", {"job_id": job_id})

    def cancel(self, job_id: str) -> None:
        """Ends a job; what it wrote before stays."""
        self._post("cancel", {"job_id": job_id})

    def errors(self, job_id: str, limit: int = 100) -> Records:
        """Rows of a job that got an error instead of a value, from the table `job_errors`:
        `job_id`, `table_name`, `column_name`, `row_id`, `error`. Errors show once their rows do."""
        escaped = job_id.replace("'", "''")
        read = {"table": ERRORS_TABLE, "filter": f"job_id = '{escaped}'", "limit": limit}
        try:
            found: Records = Rows(self._flight, encode({"read": read})).to_list()
        except NotFound:
            # Made with the first error of the database.
            return []
        return found

    def wait(
        self, job_id: str, timeout_s: float | None = None, *, progress: bool | None = None
    ) -> JobStatus:
        """Waits until a job has ended, also while the server is restarted, busy or slow.

        Args:
            progress: whether to show a bar on standard error; by default where that is a terminal.
                Needs `tqdm`.

        Raises:
            JobFailed: it ended otherwise than by being done.
            DeadlineExceeded: it had not ended in time; it goes on.
        """
        bar = _Bar(job_id, sys.stderr.isatty() if progress is None else progress)
        wait = Wait(self, job_id, timeout_s, bar.show)
        try:
            while (ended := wait.look()) is None:
                time.sleep(wait.pause_s)
            return ended
        finally:
            bar.close()

    def _post(self, verb: str, body: dict[str, Any], *, changes: bool = False) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            answer = self._http.request("POST", f"/v1/jobs/{verb}", body, changes=changes)
            return dict(answer.json()) if answer.body.strip() else {}

        return call() if changes or verb == "describe" else retried(call)


class Wait:
    """A wait for the end of a job, look by look, so that who waits may sleep as they like.

    Attributes:
        pause_s: how long to sleep before the next look.
    """

    def __init__(
        self,
        jobs: Jobs,
        job_id: str,
        timeout_s: float | None,
        show: Callable[[JobStatus], None] = lambda _: None,
    ) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._show = show
        self._poll_s = 0.1
        self._failures = 0
        self.pause_s = 0.0

    def look(self) -> JobStatus | None:
        """Asks once; the job's status if it is done, None if it goes on.

        Raises:
            JobFailed: it ended otherwise than by being done.
            DeadlineExceeded: it will not have been looked at again in time.
        """
        self.pause_s = self._poll_s
        try:
            status = self._jobs.describe(self._job_id)
        except PASSING as error:
            # A server that restarts comes back; one that is gone meets the deadline.
            self._failures += 1
            if self._deadline is None and self._failures > FAILED_LOOKS_MAX:
                raise
            self.pause_s = pause_s(self._failures, error)
        else:
            self._failures = 0
            self._show(status)
            if status.state == DONE:
                return status
            if status.has_ended:
                raise JobFailed(status)
        if self._deadline is not None:
            left_s = self._deadline - time.monotonic()
            if self._poll_s > left_s:
                message = f"job {self._job_id} has not ended after {self._timeout_s} s"
                raise DeadlineExceeded(message)
            self.pause_s = min(self.pause_s, left_s)
        self._poll_s = min(self._poll_s * 1.5, POLL_S_MAX)
        return None


def _status(answer: dict[str, Any]) -> JobStatus:
    """A job of either answer: list and describe do not agree on names."""
    # A job under way says how far it is; one that has ended, what came of it.
    progress = answer.get("progress") or answer.get("result")
    if not isinstance(progress, dict):
        progress = {}
    failure = answer.get("failure")

    def number(*names: str) -> int | None:
        found = (progress.get(name) for name in names)
        return next((value for value in found if isinstance(value, int)), None)

    return JobStatus(
        job_id=str(answer["job_id"]),
        job_type=str(answer.get("job_type", "")),
        state=str(answer.get("job_state", answer.get("state", ""))).upper(),
        table=answer.get("table"),
        created_at_ms=answer.get("creation_ms", answer.get("created_at_millis")),
        rows_done=number("rows_done", "rows"),
        rows_total=number("rows"),
        rows_failed=number("errors"),
        failure=failure.get("message") if isinstance(failure, dict) else failure,
        raw=answer,
    )


class _Bar:
    """A progress bar, or nothing where it is not wanted or tqdm is not there."""

    def __init__(self, job_id: str, is_wanted: bool) -> None:
        self._bar: Any = None
        if is_wanted:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._bar = tqdm(desc=job_id[:20], unit=" rows", file=sys.stderr)

    def show(self, status: JobStatus) -> None:
        if self._bar is not None and status.rows_done is not None:
            self._bar.total = status.rows_total
            self._bar.n = status.rows_done
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
