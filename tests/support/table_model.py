"""A table as plain dictionaries, and random operations on it.

An operation is plain data, so that a history can be printed, cut down and played again. What it
does to the model is here; `model_runner.py` does the same to a server.
"""

import random
from dataclasses import dataclass, field
from typing import Any

Value = Any
Row = dict[str, Value]
Operation = dict[str, Any]

# Columns that tables are made with, beside the key `id`.
KINDS = {
    "n": "int32",
    "s": "string",
    "f": "float32",
    "d": "float64",
    "l": "list",
    "b": "blob",
}
WIDER = {"int32": "int64", "float32": "float64"}
ROWS_MAX = 60
COLUMNS_MAX = 9
BRANCHES = ["exp", "side"]
TAGS = ["gold", "old"]


class Inapplicable(Exception):
    """The operation makes no sense here; a cut history may have such."""


@dataclass
class State:
    """The columns and rows of a version. Rows are never changed, only replaced."""

    columns: dict[str, str] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)

    def copy(self) -> "State":
        return State(dict(self.columns), dict(self.rows))

    def matching(self, where: list[Any]) -> list[int]:
        """The keys of the rows that a predicate selects."""
        kind, *args = where
        if kind == "all":
            return list(self.rows)
        if kind == "mod":
            return [key for key in self.rows if key % args[0] == args[1]]
        if kind == "less":
            return [key for key in self.rows if key < args[0]]
        column = args[0]
        self.require(column)
        cells = {key: row[column] for key, row in self.rows.items()}
        if kind == "null":
            return [key for key, value in cells.items() if value is None]
        return [key for key, value in cells.items() if value is not None and value > args[1]]

    def require(self, column: str, *kinds: str) -> None:
        if column not in self.columns or (kinds and self.columns[column] not in kinds):
            raise Inapplicable(column)

    def require_free(self, column: str) -> None:
        if column in self.columns or column == "id":
            raise Inapplicable(column)


@dataclass
class Branch:
    """The newest state of a branch, and those of its versions that are still there."""

    state: State
    newest: int = 1
    versions: dict[int, State] = field(default_factory=dict)

    def at(self, version: int, state: State) -> None:
        """A new version."""
        self.state = state
        self.newest = version
        self.versions[version] = state.copy()


@dataclass
class Table:
    """A table with its branches, tags and indexes."""

    branches: dict[str | None, Branch] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    # Where branches begin, on main.
    roots: dict[str, int] = field(default_factory=dict)
    indexed: set[str] = field(default_factory=set)
    # Whether it ever had an index, which branches of older versions still have.
    was_indexed: bool = False
    next_key: int = 0


def sql_where(where: list[Any]) -> str:
    """A predicate as SQL."""
    kind, *args = where
    if kind == "all":
        return "true"
    if kind == "mod":
        return f"id % {args[0]} = {args[1]}"
    if kind == "less":
        return f"id < {args[0]}"
    if kind == "null":
        return f"{args[0]} IS NULL"
    value = f"'{args[1]}'" if isinstance(args[1], str) else args[1]
    return f"{args[0]} > {value}"


def sql_set(how: list[Any]) -> tuple[str, str]:
    """An assignment as a column and SQL."""
    kind, column, *args = how
    if kind == "literal":
        value = args[0]
        if value is None:
            return column, "NULL"
        return column, f"'{value}'" if isinstance(value, str) else str(value)
    if kind == "upper":
        return column, f"upper({column})"
    return column, f"{column} * 2 + 1"


def assigned(how: list[Any], row: Row) -> Value:
    """What an assignment gives in a row."""
    kind, column, *args = how
    old = row[column]
    if kind == "literal":
        return args[0]
    if old is None:
        return None
    return old.upper() if kind == "upper" else old * 2 + 1


def changed(state: State, operation: Operation) -> tuple[State, int]:
    """The state after an operation on rows or columns, and how many rows it touched."""
    after = state.copy()
    verb = operation["do"]
    if verb in {"append", "upsert"}:
        for column, kind in operation["columns"].items():
            state.require(column, kind)
        for key, cells in operation["rows"]:
            if key in state.rows and verb == "append":
                raise Inapplicable(f"the key {key} is there")
            old = state.rows.get(key, dict.fromkeys(state.columns))
            after.rows[key] = {**old, **cells}
        return after, len(operation["rows"])
    if verb == "overwrite":
        after = State(dict(operation["columns"]))
        for key, cells in operation["rows"]:
            after.rows[key] = {**dict.fromkeys(after.columns), **cells}
        return after, len(after.rows)
    if verb == "delete":
        keys = state.matching(operation["where"])
        for key in keys:
            del after.rows[key]
        return after, len(keys)
    if verb == "update":
        how = operation["set"]
        kinds = {"upper": ("string",), "twice": ("int32", "int64", "float64", "float32")}
        state.require(how[1], *kinds.get(how[0], (operation["kind"],)))
        keys = state.matching(operation["where"])
        for key in keys:
            row = after.rows[key]
            after.rows[key] = {**row, how[1]: assigned(how, row)}
        return after, len(keys)
    return change_columns(state, after, operation)


def change_columns(state: State, after: State, operation: Operation) -> tuple[State, int]:
    """The state after a change of columns."""
    verb, column = operation["do"], operation["column"]
    if verb == "add column":
        state.require_free(column)
        kind = operation["kind"]
        after.columns[column] = kind
        for key, row in after.rows.items():
            value = {"int64": key * 2, "string": "new"}.get(kind)
            after.rows[key] = {**row, column: value}
        return after, len(state.rows)
    state.require(column)
    if verb == "rename column":
        new = operation["to"]
        state.require_free(new)
        names = {name: new if name == column else name for name in state.columns}
        after.columns = {names[name]: kind for name, kind in state.columns.items()}
        for key, row in after.rows.items():
            after.rows[key] = {names[name]: value for name, value in row.items()}
    elif verb == "retype column":
        state.require(column, *WIDER)
        after.columns[column] = WIDER[state.columns[column]]
    elif verb == "drop column":
        del after.columns[column]
        for key, row in after.rows.items():
            after.rows[key] = {name: cell for name, cell in row.items() if name != column}
    else:
        raise ValueError(verb)
    return after, len(state.rows)


# ---- random operations ------------------------------------------------------------------------

WEIGHTS = {
    "append": 22,
    "upsert": 20,
    "partial upsert": 14,
    "update": 14,
    "delete": 10,
    "overwrite": 1,
    "add column": 2,
    "rename column": 2,
    "retype column": 1,
    "drop column": 2,
    "tag": 2,
    "untag": 1,
    "restore": 2,
    "branch": 1,
    "compact": 2,
    "profile": 2,
    "index": 1,
    "clean": 1,
    "rename": 1,
    "drop": 0.4,
    "create": 2,
}
TABLES_MAX = 3


class Dice:
    """Says what to do next."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.number = 0

    def choice(self, values: Any) -> Any:
        return self.random.choice(list(values))

    def value(self, kind: str) -> Value:
        """A value of a column, now and then null."""
        dice = self.random
        if dice.random() < 0.2:
            return None
        if kind in {"int32", "int64"}:
            return dice.randrange(-1000, 1000)
        if kind in {"float32", "float64"}:
            return dice.randrange(-1000, 1000) / 4
        if kind == "list":
            return [dice.randrange(9) for _ in range(dice.randrange(4))]
        if kind == "blob":
            return dice.randbytes(dice.randrange(1, 30))
        return dice.choice(["", "a", "bc", "ä€", "x" * 20]) + str(dice.randrange(50))

    def columns(self) -> dict[str, str]:
        """The columns of a new table."""
        return {name: kind for name, kind in KINDS.items() if self.random.random() < 0.8}

    def rows(self, keys: list[int], columns: dict[str, str]) -> list[tuple[int, Row]]:
        return [(key, {name: self.value(kind) for name, kind in columns.items()}) for key in keys]

    def where(self, state: State) -> list[Any]:
        """A predicate."""
        dice = self.random
        texts = [name for name, kind in state.columns.items() if kind == "string"]
        numbers = [name for name, kind in state.columns.items() if kind.startswith(("int", "fl"))]
        kind = dice.choice(["mod", "mod", "less", "null", "greater", "greater text"])
        if kind == "null" and texts + numbers:
            return ["null", dice.choice(texts + numbers)]
        if kind == "greater" and numbers:
            return ["greater", dice.choice(numbers), dice.randrange(-1000, 1000)]
        if kind == "greater text" and texts:
            return ["greater", dice.choice(texts), dice.choice(["a3", "bc1", "x"])]
        if kind == "less" and state.rows:
            return ["less", dice.choice(sorted(state.rows))]
        divisor = dice.choice([2, 3, 7, 11])
        return ["mod", divisor, dice.randrange(divisor)]

    def new_name(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    def next(self, tables: dict[str, Table]) -> Operation:
        """The next operation on one of the tables."""
        while True:
            [verb] = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            if not tables or (verb == "create" and len(tables) < TABLES_MAX):
                columns = self.columns()
                rows = self.rows(list(range(self.random.randrange(8))), columns)
                name = self.new_name("t")
                return {"do": "create", "table": name, "columns": columns, "rows": rows}
            if verb == "create":
                continue
            name = self.choice(tables)
            table = tables[name]
            branch = self.choice(table.branches) if self.random.random() < 0.3 else None
            operation = self.on(verb, table, branch)
            if operation is not None:
                return {"table": name, "branch": branch, **operation}

    def on(self, verb: str, table: Table, branch: str | None) -> Operation | None:
        """An operation of a kind, or nothing where it makes no sense."""
        dice, state = self.random, table.branches[branch].state
        if verb in {"append", "upsert", "partial upsert", "overwrite"}:
            return self.write(verb, table, state)
        if verb == "delete":
            return {"do": "delete", "where": self.where(state)}
        if verb == "update":
            return self.update(state)
        if verb == "retype column" and branch is not None and table.was_indexed:
            return None
        if verb.endswith("column"):
            return self.column(verb, state, table.indexed)
        if verb == "tag":
            version = dice.choice(list(table.branches[None].versions))
            return {"do": "tag", "tag": dice.choice(TAGS), "version": version}
        if verb == "untag":
            return {"do": "untag", "tag": dice.choice(list(table.tags))} if table.tags else None
        if verb == "restore":
            return {"do": "restore", "version": dice.choice(list(table.branches[branch].versions))}
        if verb == "branch":
            free = [name for name in BRANCHES if name not in table.branches]
            version = dice.choice(list(table.branches[None].versions))
            return {"do": "branch", "name": free[0], "version": version} if free else None
        if verb == "index":
            kinds = ("int32", "int64", "string")
            free = [name for name, kind in state.columns.items() if kind in kinds]
            column = dice.choice(["id", *free])
            return {"do": "index", "column": column} if branch is None else None
        if verb == "clean":
            return {"do": "clean", "keep": dice.choice([1, 5, 20])}
        if verb == "rename":
            return {"do": "rename", "to": self.new_name("r")}
        if verb == "profile":
            return {"do": verb, "profile": dice.choice(["extended", "extended", "open"])}
        return {"do": verb}

    def write(self, verb: str, table: Table, state: State) -> Operation | None:
        """Rows with new keys and, where they may, old ones."""
        count = self.random.randrange(1, 6)
        keys = list(range(table.next_key, table.next_key + count))
        columns = dict(state.columns)
        if verb == "overwrite":
            columns = self.columns()
        elif len(state.rows) > ROWS_MAX:
            return {"do": "delete", "where": ["mod", 2, self.random.randrange(2)]}
        elif verb != "append":
            old = self.random.sample(sorted(state.rows), min(len(state.rows), count))
            keys = [*old, *keys[: self.random.choice([0, 0, 2])]]
        if verb == "partial upsert":
            columns = {k: v for k, v in columns.items() if self.random.random() < 0.5}
        verb = "upsert" if verb == "partial upsert" else verb
        if not keys or (verb == "upsert" and not columns):
            return None
        return {"do": verb, "columns": columns, "rows": self.rows(keys, columns)}

    def update(self, state: State) -> Operation | None:
        """One assignment to a column of numbers or texts."""
        kinds = {"int32", "int64", "float32", "float64", "string"}
        names = [name for name, kind in state.columns.items() if kind in kinds]
        if not names:
            return None
        column = self.choice(names)
        kind = state.columns[column]
        how = ["literal", column, self.value(kind)]
        if self.random.random() < 0.5:
            how = ["upper" if kind == "string" else "twice", column]
        if how[0] == "twice" and any(
            abs(row[column] or 0) > 100_000 for row in state.rows.values()
        ):
            how = ["literal", column, 1]
        return {"do": "update", "where": self.where(state), "set": how, "kind": kind}

    def column(self, verb: str, state: State, indexed: set[str]) -> Operation | None:
        """A change of columns."""
        if verb == "add column":
            if len(state.columns) >= COLUMNS_MAX:
                return None
            kind = self.choice(["int64", "string", "float64"])
            return {"do": verb, "column": self.new_name("c"), "kind": kind}
        names = [name for name in state.columns if verb == "drop column" or name not in indexed]
        if verb == "retype column":
            names = [name for name in names if state.columns[name] in WIDER]
        if not names or (verb == "drop column" and len(state.columns) < 3):
            return None
        operation = {"do": verb, "column": self.choice(names)}
        return operation | {"to": self.new_name("c")} if verb == "rename column" else operation
