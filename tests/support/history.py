"""A model of a table: what each acknowledged change must have done, version by version.

Every acknowledged change names its version. Replayed in that order they must give the rows that the
table has at each version. Only appends may share one, and upserts: they are committed as a group,
as if in some order.
"""

from dataclasses import dataclass, field

import pyarrow as pa

from support.flight import Lake

Rows = dict[int, str]


def rows_of(rows: Rows) -> pa.Table:
    """The rows as a table of `id` and `name`."""
    return pa.table({"id": pa.array(rows, pa.int64()), "name": list(rows.values())})


@dataclass
class Change:
    """One acknowledged change."""

    version: int
    kind: str
    rows: Rows = field(default_factory=dict)
    ids: range = range(0)
    source: int = 0
    count: int | None = None


def apply(change: Change, states: dict[int, list[tuple[int, str]]], before: int) -> None:
    """Makes the state of the change's version from the one before."""
    state = list(states[before])
    if change.kind == "append":
        state += change.rows.items()
    elif change.kind == "upsert":
        state = [row for row in state if row[0] not in change.rows] + list(change.rows.items())
    elif change.kind == "delete":
        kept = [row for row in state if row[0] not in change.ids]
        assert change.count == len(state) - len(kept), f"{change}: {len(state) - len(kept)}"
        state = kept
    elif change.kind == "overwrite":
        state = list(change.rows.items())
    elif change.kind == "restore":
        state = list(states[change.source])
    else:
        raise ValueError(change.kind)
    states[change.version] = state


def in_order(upserts: list[Change], found: dict[int, str]) -> list[Change]:
    """Upserts of one version in an order that gives what was found there."""
    left, order = list(upserts), []
    decided: set[int] = set()
    while left:
        for change in left:
            own = {key: text for key, text in change.rows.items() if key not in decided}
            if all(found.get(key) == text for key, text in own.items()):
                break
        else:
            raise AssertionError(f"no order of {upserts} gives {found}")
        left.remove(change)
        decided |= change.rows.keys()
        order.insert(0, change)
    return order


def replayed(lake: Lake, table: str, changes: list[Change]) -> list[Change]:
    """The changes in the order in which they happened."""
    order: list[Change] = []
    for version in sorted({change.version for change in changes}):
        group = [change for change in changes if change.version == version]
        group = [change for change in group if change.kind != "delete" or change.count != 0]
        if len(group) > 1 and {change.kind for change in group} == {"upsert"}:
            rows = lake.read(table, version=version).to_pydict()
            group = in_order(group, dict(zip(rows["id"], rows["name"], strict=True)))
        order += group
    return order


def check_history(lake: Lake, table: str, first: Rows, changes: list[Change]) -> None:
    """Compares every version that a change names, and the newest, with the replay."""
    states = {1: list(first.items())}
    before = 1
    order = replayed(lake, table, changes)  # without deletions of nothing, which commit nothing
    for change in order:
        if change.version == before and before > 1:
            group = {other.kind for other in order if other.version == change.version}
            assert group in ({"append"}, {"upsert"}), f"{group} in version {before}"
        apply(change, states, before)
        before = change.version
    for version, expected in states.items():
        rows = lake.read(table, version=version)
        found = list(zip(rows["id"].to_pylist(), rows["name"].to_pylist(), strict=True))
        assert sorted(found) == sorted(expected), f"version {version}"
        ids = [row[0] for row in found]
        assert len(ids) == len(set(ids)), f"a key twice in version {version}"
    newest = lake.read(table)
    assert newest.sort_by("id").equals(lake.read(table, version=before).sort_by("id"))
