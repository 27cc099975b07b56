"""The JSON commands of the Flight door, as bytes."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lakebed.errors import InvalidArgument

# Names, or expressions of SQL under aliases.
Columns = Sequence[str] | Mapping[str, str]


def encode(command: Mapping[str, Any]) -> bytes:
    """A command as the server reads it."""
    return json.dumps(command, separators=(",", ":")).encode()


def without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def columns_field(columns: Columns | None) -> list[str] | dict[str, str] | None:
    """The field `columns` of a command."""
    if columns is None:
        return None
    if isinstance(columns, str):
        raise InvalidArgument("columns is one text; give a list of names")
    return dict(columns) if isinstance(columns, Mapping) else list(columns)


def version_fields(version: int | str | datetime.datetime | None) -> dict[str, Any]:
    """The fields that name a version: a number, a tag's name, or a time with a zone."""
    if version is None:
        return {}
    if isinstance(version, datetime.datetime):
        if version.tzinfo is None:
            raise InvalidArgument("a version by time needs a time with a zone")
        return {"as_of": version.isoformat()}
    if isinstance(version, bool) or not isinstance(version, (int, str)):
        raise InvalidArgument("a version is a number, a tag's name or a time")
    return {"version": version} if isinstance(version, int) else {"tag": version}
