"""A table: rows in, rows out, searches and blobs. A handle costs nothing and is checked when
used."""

import base64
import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakebed._commands import Columns, columns_field, encode, version_fields, without_none
from lakebed._flight import FlightDoor
from lakebed._http import Answer, HttpDoor, quoted
from lakebed._retry import retried
from lakebed._rows import Rows
from lakebed._write import Receipt, source_of, write
from lakebed.blob import BlobFile, open_blob
from lakebed.errors import InvalidArgument
from lakebed.resident import ResidentIndexes
from lakebed.row_sets import RowSets
from lakebed.vector_aliases import VectorAliases, compare_embeddings

if TYPE_CHECKING:
    from lakebed._write import Rowlike

Version = int | str | datetime.datetime
ROW_ID = "_rowid"


class Table:
    """A table of a server by its id: namespaces and name, joined with `$`."""

    def __init__(self, http: HttpDoor, flight: FlightDoor, name: str) -> None:
        self._http = http
        self._flight = flight
        self.name = name

    def __repr__(self) -> str:
        return f"<Table {self.name} of {self._http.target.database}>"

    # ---- rows in ------------------------------------------------------------------------------

    def add(self, data: "Rowlike", *, write_id: str | None = None) -> Receipt:
        """Appends rows: a table or batches of Arrow, data frames, dicts, or an iterable of batches
        of any length. All become visible at once, or none.

        Args:
            write_id: a name for this write; sent again under it, it happens once. Made up without
                one.

        Raises:
            LakebedError: by kind; its `write_id` sends the write again safely.
        """
        return self._write("append", data, write_id=write_id)

    def upsert(
        self, data: "Rowlike", on: str | Sequence[str], *, write_id: str | None = None
    ) -> Receipt:
        """Changes the rows whose key exists and adds the others. Columns that are not brought stay
        as they are, so all rows have to bring the same ones.

        Raises:
            InvalidArgument: one of several dicts lacks a name that others have.
            LakebedError: by kind; its `write_id` sends the write again safely.
        """
        keys = [on] if isinstance(on, str) else list(on)
        return self._write("upsert", data, on=keys, write_id=write_id)

    def overwrite(
        self, data: "Rowlike", *, blobs: Sequence[str] = (), write_id: str | None = None
    ) -> Receipt:
        """Replaces rows and schema; earlier versions stay readable."""
        return self._write("overwrite", data, blobs=blobs, write_id=write_id)

    def _write(
        self,
        mode: str,
        data: "Rowlike",
        *,
        on: Sequence[str] = (),
        blobs: Sequence[str] = (),
        schema: pa.Schema | None = None,
        write_id: str | None = None,
    ) -> Receipt:
        source = source_of(data, schema, blobs, is_even=mode == "upsert")
        return write(self._flight, self.name, mode, source, on=on, write_id=write_id)

    def update(
        self,
        where: str | None = None,
        values: Mapping[str, Any] | None = None,
        *,
        values_sql: Mapping[str, str] | None = None,
    ) -> int:
        """Sets cells of the rows for which `where` is true, all rows without it.

        Args:
            values: literals by column: None, booleans, numbers, texts, times.
            values_sql: expressions in SQL by column, which see the row as it was.

        Returns:
            How many rows were changed.

        Raises:
            CommitUnknown: the connection was lost after the request was sent; look before repeating
                it.
        """
        literals = {name: sql_literal(value) for name, value in (values or {}).items()}
        updates = {**literals, **(values_sql or {})}
        if not updates:
            raise InvalidArgument("an update needs values or values_sql")
        body = {"predicate": where, "updates": [list(pair) for pair in updates.items()]}
        return int(self._post("update", body, changes=True)["rows_updated"])

    def delete(self, where: str) -> int:
        """Deletes the rows for which `where` is true; how many they were.

        Deleting twice does no harm, so a lost connection is answered by asking again, and the count
        is then of the last request.
        """
        answer = retried(lambda: self._post("delete", {"predicate": where}))
        return int(answer["num_deleted_rows"])

    # ---- rows out -----------------------------------------------------------------------------

    def scan(
        self,
        columns: Columns | None = None,
        filter: str | None = None,
        version: Version | None = None,
        *,
        limit: int | None = None,
        offset: int | None = None,
        row_ids: Sequence[int] | None = None,
        row_set: str | None = None,
        blobs: str | None = None,
        any_order: bool = False,
    ) -> Rows:
        """Rows of one version, read when the answer is asked for them.

        Args:
            columns: names, `_rowid` among them if wanted, or expressions in SQL by alias.
            filter: rows for which this condition in SQL is true.
            version: a number, a tag's name, or a time with a zone; the latest without one.
            row_ids: exactly these rows, in this order.
            row_set: only rows of this set, `NAME` or `NAME@VERSION`.
            blobs: `bytes` for the bytes of blob columns; their descriptors without it.
            any_order: whether rows may come in whatever order is fastest. A read batch by batch
                then cannot go on after a lost connection.
        """
        fields = {
            "table": self.name,
            "columns": columns_field(columns),
            "filter": filter,
            **version_fields(version),
            "limit": limit,
            "offset": offset,
            "row_ids": None if row_ids is None else [int(row) for row in row_ids],
            "row_set": row_set,
            "blobs": blobs,
            "order": "any" if any_order else None,
        }
        command = encode({"read": without_none(fields)})
        return Rows(self._flight, command, keeps_order=not any_order)

    @property
    def resident(self) -> ResidentIndexes:
        """Columns of vectors that the server searches in memory."""
        return ResidentIndexes(self._http, self.name)

    def search(
        self,
        vector: Sequence[float] | Sequence[Sequence[float]] | None = None,
        *,
        text: str | None = None,
        picture: bytes | str | Path | None = None,
        words: str | Mapping[str, Any] | None = None,
        column: str | None = None,
        k: int = 10,
        where: str | None = None,
        columns: Columns | None = None,
        version: Version | None = None,
        with_row_id: bool = False,
        distance: str | None = None,
        row_set: str | None = None,
        word_columns: Sequence[str] = (),
        highlight: bool | Mapping[str, Any] | None = None,
        hybrid: Mapping[str, Any] | None = None,
        rerank: str | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Rows:
        """The nearest rows, or those that match words best, or both joined.

        Args:
            vector: what to search for, or several of them.
            text: a text that a worker turns into a vector, by the model that made the column.
            picture: the same of a picture: its bytes, or the path of a file.
            words: a search in a text index: words, or a structured query of the LanceDB SDKs.
                Beside one of the others, both are searched and joined.
            column: the column of vectors, or of the text index.
            k: how many rows.
            where: only rows for which this condition in SQL is true.
            distance: `l2`, `cosine`, `dot` or `hamming`; as the index has it without one.
            row_set: only rows of this set, `NAME` or `NAME@VERSION`.
            word_columns: the columns of the text index, where `column` is the one of vectors.
            highlight: whether rows show parts of their texts with what matched marked, as the
                column `_highlights`, or how: `columns`, `fragment_chars`, `fragments`, `pre`,
                `post`, `escape_html`.
            hybrid: how vector and words are joined: `method` (`rrf` or `weights`), `rrf_k`,
                `vector_weight`, `text_weight`.
            rerank: a registered function that puts the best rows in order, or the same with
                `function`, `inputs`, `query` and `candidates`.
            options: further fields of a query by their names, such as `nprobes` or `fast_search`.
        """
        query = self._searched(vector, text, picture, words, column, word_columns)
        fields = {
            "table": self.name,
            **query,
            "k": k,
            "filter": where,
            "columns": columns_field(columns),
            **version_fields(version),
            "with_row_id": with_row_id or None,
            "distance_type": distance,
            "row_set": row_set,
            "highlight": {} if highlight is True else highlight or None,
            "hybrid": hybrid,
            "rerank": {"function": rerank} if isinstance(rerank, str) else rerank,
            **options,
        }
        return Rows(self._flight, encode({"search": without_none(fields)}))

    def facets(
        self,
        facets: Sequence[str | Mapping[str, Any]],
        vector: Sequence[float] | None = None,
        *,
        text: str | None = None,
        picture: bytes | str | Path | None = None,
        words: str | Mapping[str, Any] | None = None,
        column: str | None = None,
        word_columns: Sequence[str] = (),
        where: str | None = None,
        version: int | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """How many of the rows that a search finds have each value of some columns: `matched`,
        `is_cut`, and `facets` with `column`, `values` and `other`. Without anything to search for,
        all rows for which `where` is true are counted.

        Args:
            facets: columns, or `column` and `limit` of each.
        """
        query = self._searched(vector, text, picture, words, column, word_columns, may_be_none=True)
        asked = [{"column": it} if isinstance(it, str) else dict(it) for it in facets]
        body = {**query, "filter": where, "version": version, **options, "facets": asked}
        return dict(retried(lambda: self._ask("facets", without_none(body))).json())

    def suggest(
        self,
        text: str,
        column: str | None = None,
        *,
        limit: int | None = None,
        version: int | None = None,
    ) -> dict[str, Any]:
        """The words of a text that no row has, with the nearest that some have: `corrected`, and
        `words` with `word`, `is_known` and `suggestions`.

        Args:
            column: the column of texts; may be left out where one alone has a text index.
        """
        body = without_none({"text": text, "column": column, "limit": limit, "version": version})
        return dict(retried(lambda: self._ask("suggest", body)).json())

    def _searched(
        self,
        vector: Any,
        text: str | None,
        picture: bytes | str | Path | None,
        words: str | Mapping[str, Any] | None,
        column: str | None,
        word_columns: Sequence[str],
        *,
        may_be_none: bool = False,
    ) -> dict[str, Any]:
        """The fields of a query that say what is searched for."""
        by_vector = sum([vector is not None, text is not None, picture is not None])
        if by_vector > 1 or (not may_be_none and by_vector == 0 and words is None):
            raise InvalidArgument(
                "a search needs one of vector, text and picture, or words, or words and one of them"
            )
        query: dict[str, Any] = {}
        if words is not None:
            alone = [column] if column and by_vector == 0 else []
            query["full_text_query"] = {
                "query": words if isinstance(words, str) else dict(words),
                "columns": list(word_columns) or alone,
            }
        if by_vector:
            query["vector_column"] = column
            if vector is not None:
                query["vector"] = _numbers(vector)
            elif text is not None:
                query["embed"] = {"text": text}
            else:
                assert picture is not None, "one of the three was given"
                data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
                query["embed"] = {"picture": base64.b64encode(data).decode()}
        return query

    def blob(self, column: str, row_id: int, version: int | str | None = None) -> BlobFile | None:
        """One blob as a seekable file; None where the cell is null.

        Args:
            row_id: as the column `_rowid` shows it.

        Raises:
            NotFound: there is no such row.
        """
        return open_blob(self._http, self.name, column, row_id, version)

    # ---- about the table ----------------------------------------------------------------------

    def schema(self, version: Version | None = None) -> pa.Schema:
        """Names and types of the columns."""
        schema = self.scan(version=version, limit=0).plan().schema
        return schema if schema is not None else pa.schema([])

    def version(self) -> int:
        """The newest version's number."""
        version = self.scan(limit=0).plan().version
        if version is None:
            raise InvalidArgument("the server does not say versions")
        return version

    def count(
        self,
        where: str | None = None,
        version: Version | None = None,
        *,
        row_set: str | None = None,
    ) -> int:
        """How many rows there are, of a set where one is named."""
        if row_set is not None:
            return self.pin(version, where, row_set=row_set)[1]
        if where is None:
            return self.scan(version=version).count()
        return self.scan(columns=[ROW_ID], filter=where, version=version).count()

    @property
    def row_sets(self) -> RowSets:
        """Sets of its rows that are kept by name."""
        return RowSets(self._http, self.name)

    def pin(
        self,
        version: Version | None = None,
        where: str | None = None,
        *,
        row_set: str | None = None,
    ) -> tuple[int, int]:
        """A version's number, and how many rows it has for which `where` is true, of a set where
        one is named.

        Asked over HTTP where the version is not given by time, so that a process may fork after it;
        see `lakebed._flight`.
        """
        if isinstance(version, datetime.datetime):
            plan = self.scan(columns=[ROW_ID], version=version, limit=0).plan()
            version = plan.version
        elif isinstance(version, str):
            tag = {"tag": version}
            version = _version_of(retried(lambda: self._ask("describe", tag)))
        given = {"version": version, "predicate": where, "row_set": row_set}
        answer = retried(lambda: self._ask("count_rows", without_none(given)))
        return _version_of(answer), int(answer.json())

    @property
    def vector_aliases(self) -> VectorAliases:
        """Words that stand for columns of vectors, and can be pointed to another one."""
        return VectorAliases(lambda verb, body, changes: self._post(verb, body, changes=changes))

    def compare_embeddings(
        self,
        a: str,
        b: str,
        *,
        queries: int | Sequence[str] = 100,
        k: int = 10,
        where: str | None = None,
        seed: int = 0,
        distance: str | None = None,
        version: int | str | None = None,
    ) -> dict[str, Any]:
        """What two columns of vectors find, side by side; changes nothing.

        Args:
            a: the column that is used now, or an alias of it.
            b: the column that may take its place.
            queries: how many rows are asked for, taken by chance; or texts, where models made both
                columns.
            k: how many rows each query finds.
            seed: takes other rows for another number.

        Returns:
            `from` and `to`, each with its `index`, `recall` of that and `latency_ms_median`;
            `overlap` of the exact answers with `mean`, `p10` and `histogram`; `rank_correlation`,
            `rows_with_null`, and `worst`, the queries that differ most.
        """
        return compare_embeddings(
            lambda verb, body, changes: self._post(verb, body, changes=changes),
            *(a, b, queries, k, where, seed, distance, version),
        )

    def drop(self) -> None:
        """Deletes the table with all its versions."""
        self._post("drop", None, changes=True)

    def _post(self, verb: str, body: Any, *, changes: bool = False) -> dict[str, Any]:
        answer = self._ask(verb, body, changes=changes)
        return dict(answer.json()) if answer.body.strip() else {}

    def _ask(self, verb: str, body: Any, *, changes: bool = False) -> Answer:
        path = f"/v1/table/{quoted(self.name)}/{verb}"
        # Its rows may take long to be counted or changed, as those of a stream.
        timeout_s = self._http.target.stream_timeout_s
        return self._http.request("POST", path, body, changes=changes, timeout_s=timeout_s)


def _version_of(answer: Answer) -> int:
    """The version that an answer is about."""
    return int(answer.headers["x-lancedb-version"])


def sql_literal(value: Any) -> str:
    """A value as SQL writes it.

    Raises:
        InvalidArgument: there is no literal for it; use `values_sql`.
    """
    value = _python_value(value)
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    # By the plain type, because classes that derive from it have a `repr` of their own.
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgument(f"{value} has no literal in SQL")
        return repr(float(value))
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime.datetime):
        return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
    if isinstance(value, datetime.date):
        return f"DATE '{value.isoformat()}'"
    raise InvalidArgument(f"a value of type {type(value).__name__} has no literal; use values_sql")


def _python_value(value: Any) -> Any:
    """A scalar of numpy or torch as Python has it; anything else as it is."""
    if not (hasattr(value, "dtype") and hasattr(value, "item")) or getattr(value, "ndim", 0) != 0:
        return value
    plain = value.item()
    # Times in nanoseconds come out as bare numbers.
    is_bare = getattr(value.dtype, "kind", "") in {"m", "M"} and isinstance(plain, int)
    return value if is_bare else plain


def _numbers(vector: Any) -> list[Any]:
    """A vector or several as lists; arrays of numpy, torch and Arrow are taken."""
    for name in ("tolist", "to_pylist"):
        if hasattr(vector, name):
            return list(getattr(vector, name)())
    return [_numbers(part) if hasattr(part, "__len__") else float(part) for part in vector]
