"""Does to a server what a model says, and compares the two.

A difference is a `Difference`; the history that led to it is cut down to a short one that still
shows it, and printed as lines that `replay` takes.
"""

import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import lance
import pyarrow as pa

from support import duck
from support.data import blob_field
from support.flight import Failure
from support.server import LakebedServer
from support.sql import Sql
from support.table_model import (
    Branch,
    Dice,
    Inapplicable,
    Operation,
    Row,
    State,
    Table,
    changed,
    sql_set,
    sql_where,
)

TYPES = {
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "list": pa.list_(pa.int64()),
}
ON_ROWS = {"append", "upsert", "update", "delete", "overwrite"}
READ_EVERY = 12
SQL_EVERY = 60
FOLDER_EVERY = 250


class Difference(AssertionError):
    """The server and the model do not agree."""


def arrow_of(columns: dict[str, str], rows: Iterable[tuple[int, Row]]) -> pa.Table:
    """Rows as Arrow."""
    rows = list(rows)
    fields, arrays = [pa.field("id", pa.int64())], [pa.array([key for key, _ in rows], pa.int64())]
    for name, kind in columns.items():
        cells = [row.get(name) for _, row in rows]
        field = blob_field(name) if kind == "blob" else pa.field(name, TYPES[kind])
        fields.append(field)
        arrays.append(pa.array(cells, field.type))
    return pa.table(arrays, schema=pa.schema(fields))


class Runner:
    """A database whose tables a model describes."""

    def __init__(self, server: LakebedServer, database: str) -> None:
        self.server = server
        self.database = database
        self.lake = server.lake(database=database)
        self.http = server.http()
        self.sql = Sql(server, database=database)
        self.tables: dict[str, Table] = {}
        # A rename changes no folder.
        self.folders: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        self.compared: Counter[str] = Counter()
        self.history: list[Operation] = []

    def close(self) -> None:
        """Ends its connections."""
        self.lake.close()
        self.sql.close()

    # ---- one operation ------------------------------------------------------------------------

    def do(self, operation: Operation) -> None:
        """Does it to both. What the model cannot do is left out."""
        with contextlib.suppress(Inapplicable):
            self.both(operation)
            self.done[operation["do"]] += 1

    def both(self, operation: Operation) -> None:
        verb, name = operation["do"], operation["table"]
        if verb == "create":
            self.create(operation)
            return
        if name not in self.tables:
            raise Inapplicable(name)
        table, on = self.tables[name], operation.get("branch")
        if on not in table.branches:
            raise Inapplicable(on)
        branch = table.branches[on]
        self.history.append(operation)
        if verb in ON_ROWS or verb.endswith("column"):
            after, count = changed(branch.state, operation)
            version, said = self.change(name, on, operation)
            if said is not None and said != count:
                raise Difference(f"{said} rows were touched, and {count} in the model")
            if version < branch.newest or (version == branch.newest and count):
                raise Difference(f"version {version} after {branch.newest}")
            branch.at(version, after)
            if verb == "overwrite" and on is None:
                table.indexed.clear()
            keys = [key for key, _ in operation.get("rows", [])]
            table.next_key = max([table.next_key, *(key + 1 for key in keys)])
        else:
            getattr(self, "do_" + verb)(name, table, branch, operation)

    def change(self, name: str, on: str | None, operation: Operation) -> tuple[int, int | None]:
        """A change of rows or columns; its version and how many rows it says to have touched."""
        verb = operation["do"]
        fields = {} if on is None else {"branch": on}
        if verb in {"append", "upsert", "overwrite"}:
            rows = arrow_of(operation["columns"], operation["rows"])
            more = {"on": ["id"]} if verb == "upsert" else {}
            try:
                receipt = self.lake.write(name, rows, verb, **more, **fields)
            except Failure as error:
                raise Difference(f"refused: {error}") from error
            return receipt["version"], receipt["rows"]
        if verb == "delete":
            answer = self.post(name, "delete", predicate=sql_where(operation["where"]), **fields)
            return answer["version"], answer["num_deleted_rows"]
        if verb == "update":
            where, how = sql_where(operation["where"]), list(sql_set(operation["set"]))
            answer = self.post(name, "update", predicate=where, updates=[how], **fields)
            return answer["version"], answer["rows_updated"]
        return self.change_column(name, fields, operation), None

    def change_column(self, name: str, fields: dict[str, Any], operation: Operation) -> int:
        verb, column = operation["do"], operation["column"]
        if verb == "add column":
            how = {"int64": "id * 2", "string": "'new'", "float64": "CAST(NULL AS DOUBLE)"}
            new = {"name": column, "expression": how[operation["kind"]]}
            return self.post(name, "add_columns", new_columns=[new], **fields)["version"]
        if verb == "drop column":
            return self.post(name, "drop_columns", columns=[column], **fields)["version"]
        change: dict[str, Any] = {"path": column}
        if verb == "rename column":
            change["rename"] = operation["to"]
        else:
            kind = self.tables[name].branches[fields.get("branch")].state.columns[column]
            change["data_type"] = {"int32": "int64", "float32": "double"}[kind]
        return self.post(name, "alter_columns", alterations=[change], **fields)["version"]

    def post(self, table: str, verb: str, **body: Any) -> Any:
        """A verb over HTTP that has to succeed."""
        return self.request(f"/v1/table/{table}/{verb}", body)

    def request(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.http.request("POST", path, body, {"x-lancedb-database": self.database})
        if answer.status != 200:
            raise Difference(f"refused: {answer.status} {answer.text}")
        return answer.json() if answer.body else None

    # ---- what is about tables and versions ----------------------------------------------------

    def create(self, operation: Operation) -> None:
        name = operation["table"]
        if name in self.tables:
            raise Inapplicable(name)
        self.history.append(operation)
        rows = arrow_of(operation["columns"], operation["rows"])
        receipt = self.lake.create(name, rows)
        if receipt["version"] != 1:
            raise Difference(f"created as version {receipt['version']}")
        state = State(dict(operation["columns"]), dict(operation["rows"]))
        main = Branch(state)
        main.at(1, state)
        next_key = 1 + max((key for key, _ in operation["rows"]), default=-1)
        self.tables[name] = Table({None: main}, next_key=next_key)
        self.folders[name] = name

    def newest(self, name: str, on: str | None = None) -> int:
        fields = {} if on is None else {"branch": on}
        return json.loads(self.lake.info(name, **fields).app_metadata)["version"]

    def do_tag(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:  # noqa: ARG002
        tag, version = operation["tag"], operation["version"]
        if version not in table.branches[None].versions:
            raise Inapplicable(version)
        verb = "update" if tag in table.tags else "create"
        self.post(name, f"tags/{verb}", tag=tag, version=version)
        table.tags[tag] = version

    def do_untag(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:  # noqa: ARG002
        if operation["tag"] not in table.tags:
            raise Inapplicable(operation["tag"])
        self.post(name, "tags/delete", tag=operation["tag"])
        del table.tags[operation["tag"]]

    def do_restore(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:
        version, on = operation["version"], operation["branch"]
        if version not in branch.versions:
            raise Inapplicable(version)
        self.post(name, "restore", version=version, **({} if on is None else {"branch": on}))
        newest = self.newest(name, on)
        if newest != branch.newest + 1:
            raise Difference(f"version {newest} after {branch.newest}")
        branch.at(newest, branch.versions[version].copy())
        if on is None:
            self.note_indexes(name, table)

    def do_branch(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:  # noqa: ARG002
        made, version = operation["name"], operation["version"]
        main = table.branches[None]
        if made in table.branches or version not in main.versions:
            raise Inapplicable(made)
        self.dataset(name).create_branch(made, version)
        table.roots[made] = version
        table.branches[made] = Branch(main.versions[version].copy())
        table.branches[made].at(self.newest(name, made), main.versions[version].copy())

    def do_compact(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:  # noqa: ARG002
        on = operation["branch"]
        self.post(name, "compact", **({} if on is None else {"branch": on}))
        branch.at(self.newest(name, on), branch.state)

    def do_profile(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:  # noqa: ARG002
        on = operation["branch"]
        fields = {} if on is None else {"branch": on}
        answer = self.post(name, "profile", profile=operation["profile"], **fields)
        branch.at(self.newest(name, on), branch.state)
        if answer["version"] != branch.newest:
            raise Difference(f"version {branch.newest} and not {answer['version']}")

    def do_index(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:
        column = operation["column"]
        if column != "id":
            branch.state.require(column, "int32", "int64", "string")
        job = self.post(name, "create_index", column=column, index_type="BTREE")["job_id"]
        deadline = time.monotonic() + 60
        while True:
            found = self.request("/v1/jobs/describe", {"job_id": job})
            if found["job_state"] == "DONE":
                break
            if found["job_state"] != "IN_PROGRESS" or time.monotonic() > deadline:
                raise Difference(f"the index was not built: {found}")
            time.sleep(0.002)
        branch.at(self.newest(name), branch.state)
        self.note_indexes(name, table)

    def note_indexes(self, name: str, table: Table) -> None:
        """The columns with an index, which keep their types."""
        listed = self.post(name, "index/list")["indexes"]
        table.indexed = {column for index in listed for column in index["columns"]}
        table.was_indexed |= bool(listed)

    def do_clean(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:
        on = operation["branch"]
        fields = {} if on is None else {"branch": on}
        answer = self.post(name, "gc", keep_age_ms=0, keep_versions=operation["keep"], **fields)
        kept = {branch.newest}
        if on is None:
            kept |= {*table.tags.values(), *table.roots.values()}
        if lost := kept & set(answer["versions"]):
            raise Difference(f"versions {lost} were cleaned")
        for version in answer["versions"]:
            branch.versions.pop(version, None)

    def do_rename(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:  # noqa: ARG002
        if operation["to"] in self.tables:
            raise Inapplicable(operation["to"])
        self.post(name, "rename", new_table_name=operation["to"])
        self.tables[operation["to"]] = self.tables.pop(name)
        self.folders[operation["to"]] = self.folders.pop(name)

    def do_drop(self, name: str, table: Table, branch: Branch, operation: Operation) -> None:  # noqa: ARG002
        self.post(name, "drop")
        del self.tables[name], self.folders[name]
        if sorted(self.lake.tables()) != sorted(self.tables):
            raise Difference(f"there are {self.lake.tables()} and should be {list(self.tables)}")

    # ---- comparisons --------------------------------------------------------------------------

    def compare_all(self) -> None:
        """Every table and branch through every reader."""
        for name, table in self.tables.items():
            for on in table.branches:
                self.compare(name, on)
            self.compare_sql(name, ["all"])
            self.compare_folder(name)

    def compare(self, name: str, on: str | None, version: int | None = None) -> None:
        """The rows through Flight."""
        branch = self.tables[name].branches[on]
        state = branch.state if version is None else branch.versions[version]
        fields: dict[str, Any] = {} if on is None else {"branch": on}
        if version is not None:
            fields["version"] = version
        try:
            found = self.lake.read(name, blobs="bytes", **fields)
        except Failure as error:
            raise Difference(f"a read of {name} {fields} was refused: {error}") from error
        self.same(found, state, f"{name} {fields} through Flight")
        self.compared["Flight"] += 1

    def same(
        self, found: pa.Table, state: State, where: str, skipped: tuple[str, ...] = ()
    ) -> None:
        """Arrow's rows against the model's."""
        columns = [name for name in state.columns if name not in skipped]
        if set(found.column_names) != {"id", *columns}:
            raise Difference(f"columns of {where}: {found.column_names}, not {columns}")
        rows = found.to_pylist()
        by_key = {row.pop("id"): row for row in rows}
        if len(by_key) != len(rows):
            raise Difference(f"a key twice in {where}: {sorted(found['id'].to_pylist())}")
        expected = {key: {c: row[c] for c in columns} for key, row in state.rows.items()}
        if by_key != expected:
            keys = [key for key in {*by_key, *expected} if by_key.get(key) != expected.get(key)]
            first = {key: (by_key.get(key), expected.get(key)) for key in sorted(keys)[:5]}
            raise Difference(f"{len(keys)} rows of {where} differ, as {first}")

    def compare_sql(self, name: str, where: list[Any]) -> None:
        """Rows that a predicate selects, and counts, through SQL."""
        state = self.tables[name].branches[None].state
        keys = sorted(state.matching(where))
        columns = [column for column, kind in state.columns.items() if kind != "blob"]
        names = ", ".join(f'"{column}"' for column in ["id", *columns])
        text = f'SELECT {names} FROM "{name}" WHERE {sql_where(where)}'
        selected = State(state.columns, {key: state.rows[key] for key in keys})
        blobs = tuple(column for column, kind in state.columns.items() if kind == "blob")
        self.same(self.sql.query(text), selected, f"`{text}`", blobs)
        count = self.sql.value(f'SELECT count(*) FROM "{name}" WHERE {sql_where(where)}')
        if count != len(keys):
            raise Difference(f"`{text}` counts {count}, not {len(keys)}")
        self.compared["SQL"] += 1

    def dataset(self, name: str) -> lance.LanceDataset:
        return lance.dataset(str(self.path(name)))

    def path(self, name: str) -> str:
        return str(self.server.table_path(self.folders[name], self.database))

    def compare_folder(self, name: str) -> None:
        """The table's folder, as pylance and DuckDB see it; DuckDB only where the table is open."""
        table = self.tables[name]
        state = table.branches[None].state
        dataset = self.dataset(name)
        dataset.validate()
        blobs = tuple(column for column, kind in state.columns.items() if kind == "blob")
        plain = ["id", *(column for column in state.columns if column not in blobs)]
        rows = dataset.to_table(columns=plain)
        self.same(rows, state, f"{name} through pylance", blobs)
        for column in blobs if rows.num_rows else ():
            keys = rows["id"].to_pylist()
            there = [i for i, key in enumerate(keys) if state.rows[key][column] is not None]
            cells = dataset.take_blobs(column, indices=there) if there else []
            for at, cell in zip(there, cells, strict=True):
                if cell.readall() != state.rows[keys[at]][column]:
                    raise Difference(f"the blob of {keys[at]} through pylance")
        for on, branch in table.branches.items():
            if on is not None:
                there = dataset.checkout_version((on, None))
                there.validate()
                if there.count_rows() != len(branch.state.rows):
                    raise Difference(f"{there.count_rows()} rows on {on} through pylance")
        self.compared["pylance"] += 1
        header = {"x-lancedb-database": self.database}
        shown = self.http.request("GET", f"/v1/table/{name}/show", None, header).json()
        if shown["profile"] != "open":
            self.compared["overlays"] += shown["overlays"]["files"]
            return
        names = ", ".join(f'"{column}"' for column in plain)
        query = f"SELECT {names} FROM '{self.path(name)}'"
        # Anew each time: a connection remembers the columns of a table that it has read.
        with duck.connect() as connection:
            self.same(connection.execute(query).to_arrow_table(), state, "DuckDB", blobs)
        self.compared["DuckDB"] += 1

    # ---- many operations ----------------------------------------------------------------------

    def run(self, dice: Dice, operations: int, deadline: float) -> int:
        """Random operations with comparisons between them; how many there were."""
        for number in range(operations):
            if time.monotonic() > deadline:
                return number
            operation = dice.next(self.tables)
            self.do(operation)
            if not self.tables:
                continue
            name = dice.choice(self.tables)
            if number % READ_EVERY == 0:
                on = dice.choice(self.tables[name].branches)
                old = dice.choice(self.tables[name].branches[on].versions)
                self.compare(name, on, dice.choice([None, None, old]))
            if number % SQL_EVERY == 0:
                self.compare_sql(name, dice.where(self.tables[name].branches[None].state))
            if number % FOLDER_EVERY == 0:
                self.compare_folder(name)
        return operations


# ---- histories --------------------------------------------------------------------------------


def line_of(operation: Operation) -> str:
    """An operation as a line."""

    def plain(value: Any) -> Any:
        return {"base64": base64.b64encode(value).decode()}

    return json.dumps(operation, default=plain, ensure_ascii=False)


def operation_of(line: str) -> Operation:
    """An operation from its line."""

    def bytes_of(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["base64"]) if set(value) == {"base64"} else value

    return json.loads(line, object_hook=bytes_of)


def replay(server: LakebedServer, database: str, operations: list[Operation]) -> str | None:
    """Plays a history in a new database; the difference, or nothing."""
    runner = Runner(server, database)
    try:
        for operation in operations:
            runner.do(operation)
        runner.compare_all()
    except Difference as difference:
        return str(difference)
    finally:
        runner.close()
    return None


def shortened(
    server: LakebedServer, database: str, operations: list[Operation], seconds: float
) -> list[Operation]:
    """A shorter history that still shows a difference, as short as it gets in that time."""
    deadline = time.monotonic() + seconds
    tries = 0
    size = max(len(operations) // 2, 1)
    while time.monotonic() < deadline:
        at = 0
        while at < len(operations) and time.monotonic() < deadline:
            tries += 1
            less = operations[:at] + operations[at + size :]
            if less and replay(server, f"{database}-{tries}", less) is not None:
                operations = less
            else:
                at += size
        if size == 1:
            break
        size = max(size // 2, 1)
    return operations


def about(operations: list[Operation], table: str) -> list[Operation]:
    """The part of a history that is about a table, by whatever name it had."""
    found = []
    for operation in reversed(operations):
        if operation["do"] == "rename" and operation["to"] == table:
            table = operation["table"]
        if operation["table"] == table:
            found.append(operation)
        if operation["do"] == "create" and operation["table"] == table:
            break
    return found[::-1]
