"""Types that functions may take and give, with values of them."""

from datetime import date
from typing import Any

import pyarrow as pa


def item(kind: pa.DataType, nullable: bool = False) -> pa.Field:
    """What is in a list."""
    return pa.field("item", kind, nullable)


POINT = pa.struct([pa.field("x", pa.float32(), False), pa.field("label", pa.string())])

# Two values of each type of the client's grammar.
VALUES: dict[pa.DataType, list[Any]] = {
    pa.bool_(): [True, False],
    pa.int8(): [-128, 127],
    pa.int16(): [-(2**15), 2**15 - 1],
    pa.int32(): [-(2**31), 2**31 - 1],
    pa.int64(): [-(2**63), 2**63 - 1],
    pa.uint8(): [0, 255],
    pa.uint16(): [0, 2**16 - 1],
    pa.uint32(): [0, 2**32 - 1],
    pa.uint64(): [0, 2**64 - 1],
    pa.float16(): [0.5, -2.0],
    pa.float32(): [0.5, -1e10],
    pa.float64(): [0.1, 1e300],
    pa.string(): ["", "Grüße"],
    pa.large_string(): ["", "Grüße"],
    pa.binary(): [b"", b"\x00\xff"],
    pa.date32(): [date(1970, 1, 1), date(2026, 8, 25)],
    pa.date64(): [date(1970, 1, 1), date(2026, 8, 25)],
    pa.list_(item(pa.int64())): [[], [1, 2]],
    pa.large_list(item(pa.string())): [["a"], []],
    pa.list_(item(pa.float32()), 3): [[1.0, 2.0, 3.0], [0.0, 0.5, -1.0]],
    pa.list_(item(pa.list_(item(pa.bool_())))): [[[True], []], []],
    pa.list_(item(pa.float32(), nullable=True)): [[1.0, None], []],
    pa.list_(pa.field("other", pa.int8())): [[1, None], []],
    pa.large_list(item(pa.date32(), nullable=True)): [[None], [date(2000, 1, 1)]],
    pa.list_(item(pa.float16(), nullable=True), 2): [[1.0, None], [0.5, 2.0]],
    POINT: [{"x": 1.0, "label": None}, {"x": -0.5, "label": "b"}],
    pa.list_(item(POINT)): [[{"x": 1.0, "label": "a"}], []],
    pa.struct([pa.field("inner", POINT, False), pa.field("n", pa.list_(item(pa.int8())))]): [
        {"inner": {"x": 1.0, "label": None}, "n": None},
        {"inner": {"x": 2.0, "label": "c"}, "n": [1]},
    ],
}
GRAMMAR = list(VALUES)
