"""What many clients did to one table and were told, and whether one order of versions explains it.

A history is a list of events, each with the times of its question and its answer. Every value is
written once, so that a value that is found says who wrote it. Checked are:

- each version was made by one change, or by a group of appends, or of upserts; none is missing
- a change that was answered before another one was asked for has the lower version
- replayed by their versions, the changes give what every read of a version found; within a group of
  upserts some order gives it
- a read of the newest version found a version at least as new as every answer before it, and no
  client ever went back in time
- a change whose outcome is not known happened once, whole, or never
"""

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

Rows = dict[int, str]
# The actual rows of a version, for where receipts do not say all.
ReadVersion = Callable[[int], Rows]

WRITES = {"append", "upsert", "update", "delete"}


@dataclass
class Event:
    """One call of one client. Times are seconds of one clock."""

    client: int
    kind: str
    began: float
    ended: float = float("inf")
    version: int | None = None
    # What was written, or what a read found.
    rows: Rows = field(default_factory=dict)
    # Which keys a deletion or a read of keys was about; nothing means all.
    keys: frozenset[int] | None = None
    # What an update required the key to hold.
    required: str | None = None
    # How many rows an update or a deletion touched.
    count: int | None = None
    is_known: bool = True

    @property
    def is_write(self) -> bool:
        return self.kind in WRITES and self.count != 0


class Violation(AssertionError):
    """The history cannot be explained."""


class Timeline:
    """What each key held from which version on."""

    def __init__(self, first: Rows) -> None:
        self._versions: dict[int, list[int]] = {}
        self._values: dict[int, list[str | None]] = {}
        for key, value in first.items():
            self.put(1, key, value)

    def put(self, version: int, key: int, value: str | None) -> None:
        """What a key holds from a version on, which is not older than what was put before."""
        versions = self._versions.setdefault(key, [])
        values = self._values.setdefault(key, [])
        if versions and versions[-1] == version:
            values[-1] = value
        else:
            versions.append(version)
            values.append(value)

    def __iter__(self) -> Iterator[int]:
        """All keys that ever held something."""
        return iter(self._versions)

    def get(self, version: int, key: int) -> str | None:
        """What a key holds at a version."""
        at = bisect.bisect_right(self._versions.get(key, []), version)
        return self._values[key][at - 1] if at else None

    def holds(self, key: int, value: str | None, low: int, high: int) -> list[tuple[int, int]]:
        """The runs of versions from `low` to `high` in which a key holds a value."""
        versions = self._versions.get(key, [])
        borders = [low, *(v for v in versions if low < v <= high), high + 1]
        runs = pairwise(borders)
        return [(a, b - 1) for a, b in runs if self.get(a, key) == value]


class History:
    """The events of a table that began as `first` in version 1 and ended at version `newest`."""

    def __init__(
        self, first: Rows, events: Iterable[Event], newest: int, read: ReadVersion
    ) -> None:
        self.events = sorted(events, key=lambda event: event.began)
        self.newest = newest
        self.read = read
        self.timeline = Timeline(first)
        self.state = dict(first)  # of the version that the replay has come to
        self.changes: dict[int, dict[int, str | None]] = {}
        self.unknown = [event for event in self.events if event.is_write and not event.is_known]
        self.window = self.windows()
        self.found_out: dict[int, int] = {}  # of the unknown ones, by their place, the version
        self.read_versions = 0

    def check(self) -> None:
        """Raises a `Violation` that says what cannot be explained."""
        self.replay()
        self.check_real_time()
        self.check_reads()

    # ---- changes ------------------------------------------------------------------------------

    def replay(self) -> None:
        """Makes the timeline, version by version."""
        by_version: dict[int, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.is_write and event.is_known:
                if event.version is None or not 1 < event.version <= self.newest:
                    raise Violation(f"an answer with version {event.version}: {event}")
                by_version[event.version].append(event)
        near_unknown = self.versions_near_unknown(by_version)
        for version in range(2, self.newest + 1):
            group = by_version.get(version, [])
            if not group and not self.unknown:
                raise Violation(f"nobody made version {version}")
            kinds = {event.kind for event in group}
            if len(group) > 1 and kinds not in ({"append"}, {"upsert"}):
                raise Violation(f"version {version} was made by {sorted(kinds)}")
            self.apply(version, group, is_near_unknown=version in near_unknown)
        for place, event in enumerate(self.unknown):
            if place not in self.found_out:
                self.check_absent(event)

    def versions_near_unknown(self, by_version: dict[int, list[Event]]) -> set[int]:
        """The versions that a change of unknown outcome may have made, or be a part of: those that
        nobody else made, and those of its kind that may have been made while it was under way."""
        near = {v for v in range(2, self.newest + 1) if v not in by_version}
        for place, event in enumerate(self.unknown):
            low, high = self.window[place]
            same_kind = (
                version
                for version in range(low, high + 1)
                if any(other.kind == event.kind for other in by_version.get(version, []))
            )
            near.update(same_kind)
        return near

    def windows(self) -> list[tuple[int, int]]:
        """For each change of unknown outcome the versions that can be its own: newer than what was
        answered before it was asked for, and not newer than what was asked for after its end."""
        known = [event for event in self.events if event.is_known and event.version]
        answers = sorted(known, key=lambda event: event.ended)
        ends = [event.ended for event in answers]
        highest = [0, *accumulate((event.version or 0 for event in answers), max)]
        newer = self.oldest_begun_later()
        found = []
        for event in self.unknown:
            low = highest[bisect.bisect_left(ends, event.began)] + 1
            found.append((max(low, 2), min(newer(event.ended), self.newest)))
        return found

    def apply(self, version: int, group: list[Event], *, is_near_unknown: bool) -> None:
        """Makes the state of a version from the one before."""
        written: dict[int, set[str]] = defaultdict(set)
        for event in group:
            if event.kind in {"append", "upsert"}:
                for key, value in event.rows.items():
                    written[key].add(value)
            self.check_alone(version, event)
        is_shared = any(len(values) > 1 for values in written.values())
        if not is_shared and not is_near_unknown:
            for event in group:
                self.put(version, event)
            return
        actual = self.read(version)
        self.read_versions += 1
        group = [*group, *self.unknown_in(version, group, actual)]
        if not group:
            raise Violation(f"version {version} was made by nobody and has {actual}")
        for event in in_order(version, group, actual):
            self.put(version, event)
        same(version, actual, self.state)

    def check_alone(self, version: int, event: Event) -> None:
        """What a change says of the version before its own."""
        before = version - 1
        if event.kind == "append":
            twice = [key for key in event.rows if self.timeline.get(before, key) is not None]
            if twice:
                raise Violation(f"{twice} were there before they were appended: {event}")
        elif event.kind == "update":
            [key] = event.rows
            matches = self.timeline.get(before, key) == event.required
            if event.count != int(matches):
                held = self.timeline.get(before, key)
                raise Violation(f"an update of {held!r} in version {before}: {event}")
        elif event.kind == "delete":
            there = sum(self.timeline.get(before, key) is not None for key in event.keys or ())
            if event.count != there:
                raise Violation(f"there were {there} rows in version {before} for {event}")

    def put(self, version: int, event: Event) -> None:
        """Makes what a change did part of its version."""
        changed: Mapping[int, str | None] = event.rows
        if event.kind == "delete":
            changed = {key: None for key in event.keys or () if key in self.state}
        for key, value in changed.items():
            self.timeline.put(version, key, value)
            if value is None:
                del self.state[key]
            else:
                self.state[key] = value
        self.changes.setdefault(version, {}).update(changed)

    def unknown_in(self, version: int, group: list[Event], actual: Rows) -> list[Event]:
        """The changes of unknown outcome that are in a version, each in one only. They share it
        with others of their kind, or are alone in it."""
        left = [
            (place, event)
            for place, event in enumerate(self.unknown)
            if place not in self.found_out
            and self.window[place][0] <= version <= self.window[place][1]
        ]
        shared = {event.kind for event in group} & {"append", "upsert"}
        choices = [[pair] for pair in left if pair[1].kind in {"update", "delete"}]
        choices += [
            [(place, event) for place, event in left if event.kind == kind and is_in(event, actual)]
            for kind in ("append", "upsert")
        ]
        for choice in choices:
            kinds = {event.kind for _, event in choice}
            if group and not (kinds and kinds <= shared):
                continue
            events = [event for _, event in choice]
            # In a group upserts may hide each other; what is wrong then is found by the caller.
            if choice and (len(group) + len(choice) > 1 or self.after(events) == actual):
                self.found_out |= {place: version for place, _ in choice}
                return [event for _, event in choice]
        return []

    def after(self, events: list[Event]) -> Rows:
        """The rows of the next version if it is made by these changes, in whatever order."""
        state = dict(self.state)
        for event in events:
            if event.kind == "delete":
                for key in event.keys or ():
                    state.pop(key, None)
            elif event.kind != "update" or all(
                state.get(key) == event.required for key in event.rows
            ):
                state |= event.rows
        return state

    def check_absent(self, event: Event) -> None:
        """A change that no version explains has left nothing."""
        left = {k: value for k, value in event.rows.items() if self.state.get(k) == value}
        if left:
            raise Violation(f"half of a change is there: {left} of {event}")

    # ---- times --------------------------------------------------------------------------------

    def check_real_time(self) -> None:
        """What was answered first has the lower version."""
        writes = [event for event in self.events if event.is_write and event.is_known]
        by_end = sorted(writes, key=lambda event: event.ended)
        highest, at = 0, 0
        for event in sorted(writes, key=lambda event: event.began):
            while at < len(by_end) and by_end[at].ended < event.began:
                highest = max(highest, by_end[at].version or 0)
                at += 1
            if (event.version or 0) <= highest:
                raise Violation(f"version {highest} was answered before this began: {event}")

    def check_reads(self) -> None:
        """Every read found one version that it may have found."""
        answers = sorted((e for e in self.events if e.version), key=lambda event: event.ended)
        ends = [event.ended for event in answers]
        highest = [0, *accumulate((event.version or 0 for event in answers), max)]
        newer = self.oldest_begun_later()
        seen: dict[int, int] = defaultdict(int)  # by client, the version that it has seen
        whole: dict[int, list[Rows]] = defaultdict(list)
        for event in self.events:
            if not event.is_known:
                continue
            if event.kind == "read at":
                whole[event.version or 0].append(event.rows)
                continue
            low = max(highest[bisect.bisect_left(ends, event.began)], seen[event.client], 1)
            if event.version is None:
                high = max(newer(event.ended), low)
                seen[event.client] = self.first_match(event, low, high)
                continue
            if event.version < low:
                raise Violation(f"version {low} was seen before: {event}")
            seen[event.client] = event.version
            if event.kind == "read":
                whole[event.version].append(event.rows)
            elif event.kind == "update" and event.count == 0:
                [key] = event.rows
                if self.timeline.get(event.version, key) == event.required:
                    raise Violation(f"nothing was updated, and the key held that: {event}")
        self.check_whole(whole)

    def check_whole(self, reads: dict[int, list[Rows]]) -> None:
        """Reads of all rows at the versions that they name."""
        state = {key: value for key in self.timeline if (value := self.timeline.get(1, key))}
        for version in range(1, self.newest + 1):
            for key, value in self.changes.get(version, {}).items():
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = value
            for found in reads.get(version, []):
                same(version, found, state)
        if strange := [version for version in reads if not 1 <= version <= self.newest]:
            raise Violation(f"versions {strange} were read and are not there")

    def oldest_begun_later(self) -> Callable[[float], int]:
        """For a time, the newest version that somebody could see by then: the oldest of those asked
        for later, which a change asked for earlier may share."""
        writes = [event for event in self.events if event.is_write and event.is_known]
        begins = [event.began for event in writes]
        lowest = list(accumulate((event.version or 0 for event in reversed(writes)), min))[::-1]

        def newest_at(time: float) -> int:
            at = bisect.bisect_right(begins, time)
            return lowest[at] if at < len(lowest) else self.newest

        return newest_at

    def first_match(self, event: Event, low: int, high: int) -> int:
        """The oldest version from `low` to `high` in which the keys hold what a read found."""
        runs = [(low, high)]
        for key in event.keys or ():
            holds = self.timeline.holds(key, event.rows.get(key), low, high)
            pairs = ((max(a, c), min(b, d)) for a, b in runs for c, d in holds)
            runs = [(a, b) for a, b in pairs if a <= b]
        if not runs:
            raise Violation(f"no version from {low} to {high} holds that: {event}")
        return runs[0][0]


def same(version: int, found: Rows, expected: Rows) -> None:
    """What was found in a version is what the changes give."""
    if found != expected:
        more = {key: found[key] for key in found if found[key] != expected.get(key)}
        less = {key: value for key, value in expected.items() if found.get(key) != value}
        raise Violation(f"version {version} holds {more} where the changes give {less}")


def is_in(event: Event, actual: Rows) -> bool:
    """Whether rows that a change wrote are there."""
    return any(actual.get(key) == value for key, value in event.rows.items())


def in_order(version: int, group: list[Event], actual: Rows) -> list[Event]:
    """The changes of a version in an order that gives what it holds, the last one last."""
    if {event.kind for event in group} & {"update", "delete"} and len(group) > 1:
        raise Violation(f"version {version} was made by {group}")
    left, order = list(group), []
    decided: set[int] = set()
    while left:
        for event in left:
            own = {key: value for key, value in event.rows.items() if key not in decided}
            if all(actual.get(key) == value for key, value in own.items()):
                break
        else:
            raise Violation(f"no order of {left} gives version {version}")
        left.remove(event)
        decided |= event.rows.keys()
        order.insert(0, event)
    return order
