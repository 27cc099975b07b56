"""Functions in real processes: their forms, their values, and what goes wrong with single rows."""

import io
import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import pyarrow as pa
import pytest
from lancedb import blob, udf

from lakebed.functions.definition import Definition, FunctionFailed
from support.function_types import GRAMMAR, POINT, VALUES
from support.functions import Bench, defined, rows
from support.wheels import only_from, write_wheel

INT = pa.schema([pa.field("x", pa.int64(), False)])
NUMPY = ["numpy"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Processes and environments that the tests of this file share."""
    made = Bench(tmp_path_factory.mktemp("functions"))
    yield made
    made.close()


Define = Callable[..., Definition]


@pytest.fixture
def define(request: pytest.FixtureRequest) -> Define:
    """Definitions with a digest of the test's own."""

    def define(function: Any, **given: Any) -> Definition:
        return defined(function, digest=request.node.nodeid, **given)

    return define


# ---- forms ------------------------------------------------------------------------------------


@udf
def of_rows(x: int, name: str) -> str:
    return f"{name}{x}"


@udf(
    input_schema=pa.schema([pa.field("x", pa.int64()), pa.field("y", pa.int64())]),
    output_schema=pa.int64(),
)
def of_arrays(x: pa.Array, y: pa.Array) -> pa.Array:
    import pyarrow.compute

    assert isinstance(x, pyarrow.Int64Array)
    return pyarrow.compute.add(x, y)


@udf(input_schema=INT, output_schema=pa.int64())
def of_a_batch(x: pa.RecordBatch) -> pa.Array:
    import pyarrow.compute

    assert isinstance(x, pyarrow.RecordBatch)
    return pyarrow.compute.multiply(x["x"], 10)


def test_a_function_of_rows(bench: Bench, define: Define) -> None:
    found = bench.run(define(of_rows), rows(x=[1, 2], name=["a", "b"]))
    assert found.values == {0: "a1", 1: "b2"}


def test_a_function_of_arrays(bench: Bench, define: Define) -> None:
    given = rows(x=list(range(1_000)), y=[1] * 1_000)
    found = bench.run(define(of_arrays), given)
    assert found.values == {n: n + 1 for n in range(1_000)}


def test_a_function_of_a_record_batch(bench: Bench, define: Define) -> None:
    assert bench.run(define(of_a_batch), rows(x=[1, 2])).values == {0: 10, 1: 20}


def test_a_record_batch_may_have_several_columns(bench: Bench, define: Define) -> None:
    """The client has one parameter for each input; the signature of another may have more."""
    given = define(of_a_batch)
    more = Definition(
        **{**vars(given), "inputs": (*given.inputs, define(of_rows).inputs[1]), "digest": "more"}
    )
    assert bench.run(more, rows(x=[1, 2], name=["a", "b"])).values == {0: 10, 1: 20}


@udf
def of_nothing() -> int:
    return 7


def test_a_function_may_take_nothing(bench: Bench, define: Define) -> None:
    assert bench.run(define(of_nothing), rows(x=[1, 2]).select([0])).values == {0: 7, 1: 7}


def test_the_order_of_columns_does_not_matter(bench: Bench, define: Define) -> None:
    given = rows(name=["a", "b"], x=[1, 2])
    assert bench.run(define(of_rows), given).values == {0: "a1", 1: "b2"}


@udf
class Scaled:
    def __init__(self, factor: float, offset: float = 5.0, names: list[str] = ["none"]):  # noqa: B006
        self.factor, self.offset, self.names = factor, offset, names
        self.calls = 0

    def __call__(self, x: float) -> str:
        self.calls += 1
        return f"{x * self.factor + self.offset} {self.names} {self.calls}"

    def close(self):
        print("closed after", self.calls)


def test_a_class_is_made_once_with_its_constants(
    bench: Bench, define: Define, caplog: pytest.LogCaptureFixture
) -> None:
    """A null takes the default of the parameter."""
    given = define(Scaled, initialization={"factor": 2.0, "names": ["a", "b"]})
    found = bench.run(given, rows(x=[1.0, 2.0]), rows(x=[3.0]).slice(0, 0))
    assert found.values == {0: "7.0 ['a', 'b'] 1", 1: "9.0 ['a', 'b'] 2"}
    # The next task has the same instance.
    assert bench.run(given, rows(x=[0.0])).values == {0: "5.0 ['a', 'b'] 3"}
    caplog.set_level("INFO")
    taken = bench.instances.acquire(given, bench.environment(given), lambda: False)
    taken.close()
    bench.instances.release(taken)
    assert "closed after 3" in caplog.text


@udf(
    input_schema=pa.schema([pa.field("text", pa.string(), False)]),
    output_schema=pa.schema(
        [pa.field("words", pa.int32(), False), pa.field("first", pa.string(), True)]
    ),
)
def counted(text):
    words = text.split()
    if text == "nothing":
        return None
    if text == "more":
        return {"words": 1, "first": None, "typo": 1}
    if text == "less":
        return {"words": 1}
    if text == "wrong":
        return {"words": "x", "first": "y"}
    return {"words": len(words), "first": words[0] if words else None}


def test_a_struct_is_a_column_for_each_field(bench: Bench, define: Define) -> None:
    given = rows(text=["a b", "", "nothing", "more", "less", "wrong", "c"])
    found = bench.run(define(counted), given)
    assert found.values == {
        0: {"words": 2, "first": "a"},
        1: {"words": 0, "first": None},
        4: {"words": 1, "first": None},
        6: {"words": 1, "first": "c"},
    }
    assert "NoneType; a dict" in found.errors[2][0]
    assert "not declared: ['typo']" in found.errors[3][0]
    assert "field `words` of the result is not int32" in found.errors[5][0]


STRUCT = pa.schema([pa.field("n", pa.int64(), False), pa.field("s", pa.string(), True)])


@udf(input_schema=INT, output_schema=STRUCT)
def structs(x: pa.Array) -> pa.Array:
    import pyarrow

    kind = x[0].as_py()
    count = len(x)
    numbers, texts = pyarrow.array([1] * count), pyarrow.array(["t"] * count)
    if kind == 0:
        return pyarrow.StructArray.from_arrays([numbers, texts], ["n", "s"])
    if kind == 1:
        return pyarrow.RecordBatch.from_arrays([texts, numbers], ["s", "n"])
    if kind == 2:
        return {"n": [1] * count, "s": texts}
    if kind == 3:
        return [{"n": 1, "s": "t"}] * count
    if kind == 4:
        return {"n": numbers}
    return pyarrow.StructArray.from_arrays([numbers.slice(1), texts.slice(1)], ["n", "s"])


@pytest.mark.parametrize("kind", range(4))
def test_a_batch_of_structs_may_come_in_several_ways(
    bench: Bench, define: Define, kind: int
) -> None:
    found = bench.run(define(structs), rows(x=[kind, kind]))
    assert found.values == {0: {"n": 1, "s": "t"}, 1: {"n": 1, "s": "t"}}


def test_a_batch_of_structs_that_does_not_fit(bench: Bench, define: Define) -> None:
    found = bench.run(define(structs), rows(x=[4]))
    assert "declared are ['n', 's']" in found.errors[0][0]
    found = bench.run(define(structs), rows(x=[5]))
    assert "0 values for 1 rows" in found.errors[0][0]


def test_modules_are_shipped_with_code(bench: Bench, define: Define, tmp_path: Path) -> None:
    package = tmp_path / "helpers_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from helpers_of_mine.inner import triple\n")
    (package / "inner.py").write_text("def triple(x):\n    return 3 * x\n")
    source = "import helpers_of_mine\ndef tripled(x: int) -> int:\n"
    (tmp_path / "user_of_helpers.py").write_text(f"{source}    return helpers_of_mine.triple(x)\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import helpers_of_mine
        import user_of_helpers

        shipped = udf(code=[helpers_of_mine])(user_of_helpers.tripled)
    finally:
        sys.path.remove(str(tmp_path))
    assert bench.run(define(shipped), rows(x=[5])).values == {0: 15}


# ---- nulls ------------------------------------------------------------------------------------


@udf
def takes_null(x: Optional[int], y: int) -> str:  # noqa: UP045
    return f"{x} {y}"


def test_null_goes_only_where_it_is_declared(bench: Bench, define: Define) -> None:
    """The function is not called for a null that it does not take."""
    found = bench.run(define(takes_null), rows(x=[None, 1, None], y=[1, None, None]))
    assert found.values == {0: "None 1"}
    assert {row: error[1] for row, error in found.errors.items()} == {
        1: "NullInput",
        2: "NullInput",
    }
    assert "parameter `y` is null" in found.errors[1][0]


@udf(
    input_schema=pa.schema([pa.field("x", pa.int64(), True)]),
    output_schema=pa.field("r", pa.int64(), False),
)
def passed_on(x):
    return x


@udf(
    input_schema=pa.schema([pa.field("x", pa.int64(), True)]),
    output_schema=pa.field("r", pa.int64(), False),
)
def passed_on_as_array(x: pa.Array) -> pa.Array:
    return x


@pytest.mark.parametrize("function", [passed_on, passed_on_as_array], ids=["rows", "arrays"])
def test_null_that_is_not_declared_is_an_error(bench: Bench, define: Define, function: Any) -> None:
    found = bench.run(define(function), rows(x=[1, None, 3]))
    assert found.values == {0: 1, 2: 3}
    assert "the result is None" in found.errors[1][0]


HOLES = pa.list_(pa.field("item", pa.int64(), False))


@udf(input_schema=INT, output_schema=pa.field("r", HOLES, False))
def with_holes(x):
    return [1, None] if x == 1 else [1]


@udf(input_schema=INT, output_schema=pa.field("r", HOLES, False))
def with_holes_as_array(x: pa.Array) -> pa.Array:
    import pyarrow

    return pyarrow.array([[1, None] if value == 1 else [1] for value in x.to_pylist()])


@pytest.mark.parametrize("function", [with_holes, with_holes_as_array], ids=["rows", "arrays"])
def test_null_inside_of_a_value_is_an_error(bench: Bench, define: Define, function: Any) -> None:
    found = bench.run(define(function), rows(x=[0, 1, 2]))
    assert found.values == {0: [1], 2: [1]}
    assert "`item` inside of the value is null" in found.errors[1][0]


# ---- types ------------------------------------------------------------------------------------


def test_every_type_comes_back_as_it_went(bench: Bench) -> None:
    """All in one function, as the fields of a struct: a process for each would take long."""
    fields = [pa.field(f"f{n}", kind, False) for n, kind in enumerate(GRAMMAR)]
    items = ", ".join(f"'{field.name}': {field.name}" for field in fields)
    given = rows(**{f.name: pa.array(VALUES[f.type], f.type) for f in fields})
    for form in ("", ": pa.Array"):
        parameters = ", ".join(f"{field.name}{form}" for field in fields)
        function = compiled(f"def same({parameters}):\n    return {{{items}}}\n", "same")
        made = udf(input_schema=pa.schema(fields), output_schema=pa.schema(fields))(function)
        found = bench.run(defined(made, digest=f"types{form}"), given)
        assert found.errors == {}
        for row in range(2):
            expected = {field.name: VALUES[field.type][row] for field in fields}
            assert found.values[row] == expected


def compiled(text: str, name: str) -> Any:
    """A function whose source can be found."""
    path = f"<{name}>"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    namespace = {"pa": pa, "__name__": "made_here"}
    exec(compile(text, path, "exec"), namespace)
    return namespace[name]


@udf(input_schema=INT, output_schema=pa.int32())
def oddities(x):
    if x == 0:
        return 1.5
    if x == 1:
        return "text"
    if x == 2:
        return 2**40
    if x == 3:
        return 4.0
    if x == 4:
        return True
    return x


def test_what_is_not_of_the_type_is_an_error_of_its_row(bench: Bench, define: Define) -> None:
    found = bench.run(define(oddities), rows(x=list(range(6))))
    assert found.values == {3: 4, 5: 5}
    assert "1.5 is not a whole number" in found.errors[0][0]
    assert all("the result is not int32" in error for error, _, _ in found.errors.values())


@udf(input_schema=INT, output_schema=pa.int32())
def odd_arrays(x: pa.Array) -> pa.Array:
    import pyarrow

    return pyarrow.array([{0: 1.5, 1: 2.0**40}.get(value, 3.0) for value in x.to_pylist()])


def test_an_array_is_cast_where_nothing_is_lost(bench: Bench, define: Define) -> None:
    found = bench.run(define(odd_arrays), rows(x=[0, 1, 2]))
    assert found.values == {2: 3}
    assert sorted(found.errors) == [0, 1]


@udf(
    pip=NUMPY,
    input_schema=INT,
    output_schema=pa.field("v", pa.list_(pa.field("item", pa.float32(), False), 2), False),
)
def vector(x):
    import numpy

    return numpy.array([x, 0.5]) if x else numpy.zeros((1, 3))


@udf(
    pip=NUMPY,
    input_schema=INT,
    output_schema=pa.field("v", pa.list_(pa.field("item", pa.float32(), False), 2), False),
)
def vectors(x: pa.Array) -> pa.Array:
    import numpy

    return numpy.stack([x.to_numpy(), x.to_numpy() + 0.5], axis=1)


@pytest.mark.usefixtures("numpy_wheel")
def test_arrays_of_numpy_are_lists(bench: Bench, define: Define) -> None:
    found = bench.run(define(vector), rows(x=[1, 0]))
    assert found.values == {0: [1.0, 0.5]}
    assert "fixed_size_list" in found.errors[1][0]


@pytest.mark.usefixtures("numpy_wheel")
def test_a_matrix_is_a_column_of_lists(bench: Bench, define: Define) -> None:
    assert bench.run(define(vectors), rows(x=[1, 2])).values == {0: [1.0, 1.5], 1: [2.0, 2.5]}


@pytest.fixture
def numpy_wheel(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `numpy` that hands on the one of the tests."""
    folder = tmp_path_factory.mktemp("wheels")
    where = f"{np.__file__!r}, submodule_search_locations=[{str(Path(np.__file__).parent)!r}]"
    source = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('numpy', {where})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['numpy'] = module\n"
        "spec.loader.exec_module(module)\n"
    )
    write_wheel(folder, "numpy", np.__version__, source)
    only_from(folder, monkeypatch)


# ---- blobs ------------------------------------------------------------------------------------


@udf(input_schema=pa.schema([blob("picture")]), output_schema=blob("r", nullable=False))
def turned(picture):
    return picture[::-1]


@udf(
    input_schema=pa.schema([blob("picture", nullable=False)]),
    output_schema=pa.field("r", pa.string(), False),
)
def read_from(picture: io.BytesIO):
    picture.seek(1)
    return f"{picture.read()} of {picture.size()}"


@udf(
    input_schema=pa.schema([blob("picture", nullable=False)]),
    output_schema=blob("r", nullable=False),
)
def turned_arrays(picture: pa.Array) -> pa.Array:
    import pyarrow

    return pyarrow.array([value.as_py()[::-1] for value in picture], pyarrow.binary())


def test_a_blob_is_its_bytes(bench: Bench, define: Define) -> None:
    given = rows(picture=pa.array([b"abc", b""], pa.large_binary()))
    assert bench.run(define(turned), given).values == {0: b"cba", 1: b""}


def test_a_batch_of_blobs(bench: Bench, define: Define) -> None:
    given = rows(picture=pa.array([b"abc", b""], pa.binary()))
    assert bench.run(define(turned_arrays), given).values == {0: b"cba", 1: b""}


def test_a_blob_may_be_read_from(bench: Bench, define: Define) -> None:
    """By its annotation."""
    given = rows(picture=pa.array([b"abc"], pa.large_binary()))
    assert bench.run(define(read_from), given).values == {0: "b'bc' of 3"}


# ---- errors of rows ---------------------------------------------------------------------------


@udf
def raises(x: int) -> int:
    def inner(value):
        if value == 1:
            raise ValueError(f"one is {value}")
        if value == 2:
            raise SystemExit(3)
        if value == 3:
            return {}["key"]
        if value == 4:
            try:
                return 1 // 0
            except ZeroDivisionError as error:
                raise LookupError("caused") from error
        return inner(value) if value == 5 else value

    return inner(x)


def test_an_exception_is_an_error_of_its_row(bench: Bench, define: Define) -> None:
    found = bench.run(define(raises), rows(x=list(range(7))))
    assert found.values == {0: 0, 6: 6}
    assert {row: error[:2] for row, error in found.errors.items() if row < 5} == {
        1: ("one is 1", "ValueError"),
        2: ("3", "SystemExit"),
        3: ("'key'", "KeyError"),
        4: ("caused", "LookupError"),
    }
    assert found.errors[5][1] == "RecursionError"
    stack = found.errors[1][2] or ""
    assert 'File "user_function.py", line' in stack
    assert "raise ValueError(f'one is {value}')" in stack
    assert "runner" not in stack
    assert "/tmp" not in stack
    assert "ZeroDivisionError" in (found.errors[4][2] or "")
    assert all(len(error[2] or "") <= 4_000 for error in found.errors.values())


@udf(input_schema=INT, output_schema=pa.int64())
def raises_for_batches(x: pa.Array) -> pa.Array:
    if any(value in (17, 90, 91) for value in x.to_pylist()):
        raise ValueError("bad ones are in it")
    return x


def test_a_batch_that_raises_is_taken_apart(bench: Bench, define: Define) -> None:
    found = bench.run(define(raises_for_batches), rows(x=list(range(200))))
    assert sorted(found.errors) == [17, 90, 91]
    assert found.errors[17][:2] == ("bad ones are in it", "ValueError")
    assert "bad ones are in it" in (found.errors[17][2] or "")
    assert found.values == {n: n for n in range(200) if n not in (17, 90, 91)}


# ---- functions that cannot be loaded ----------------------------------------------------------


POSTPONED = "from __future__ import annotations\n"


@udf
def imports_what_is_not_there(x: int) -> int:
    return x


@udf
class Refuses:
    def __init__(self, secret_word: str):
        raise RuntimeError(f"no {secret_word} today")

    def __call__(self, x: int) -> int:
        return x


def changed_source(function: Any, source: str, **given: Any) -> Definition:
    """A function with another source."""
    made = defined(function, **given)
    return Definition(**{**vars(made), "files": {"user_function.py": source}})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module\ndef of(x): return x", "No module named 'no_such_module'"),
        ("def another(x): return x", "no function or class `imports_what_is_not_there`"),
        ("imports_what_is_not_there = 7", "no function or class"),
        ("def imports_what_is_not_there(y): return y", "signature has ['x']"),
        ("def f(:", "SyntaxError"),
        ("import os; os._exit(5)", "ended itself with exit code 5"),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("import sys; sys.exit('bye')", "SystemExit"),
        (f"{POSTPONED}def imports_what_is_not_there(x: pa.Array, y): pass", "signature has ['x']"),
        (f"{POSTPONED}async def imports_what_is_not_there(x): pass", "is not awaited"),
    ],
)
def test_what_cannot_be_loaded_fails_as_a_whole(bench: Bench, source: str, said: str) -> None:
    given = changed_source(imports_what_is_not_there, source)
    with pytest.raises(FunctionFailed) as caught:
        bench.run(given, rows(x=[1]))
    assert said in str(caught.value)
    assert not caught.value.retryable
    with pytest.raises(FunctionFailed):
        bench.instances.check(given, bench.environment(given), lambda: False)


def test_an_init_that_raises_fails_as_a_whole(bench: Bench, define: Define) -> None:
    given = define(Refuses, initialization={"secret_word": "cake"})
    with pytest.raises(FunctionFailed, match="no cake today") as caught:
        bench.run(given, rows(x=[1]))
    assert "user_function.py" in str(caught.value)
    assert not caught.value.retryable
    # A check does not make an instance.
    bench.instances.check(given, bench.environment(given), lambda: False)


def test_rows_that_do_not_fit_are_refused(bench: Bench, define: Define) -> None:
    for batch in (rows(y=[1]), rows(x=[1], y=[2]), rows(x=["text"])):
        with pytest.raises(FunctionFailed, match="not as the protocol has them"):
            bench.run(define(passed_on), batch)


@udf(input_schema=pa.schema([pa.field("p", POINT, False)]), output_schema=pa.float32())
def of_points(p: Annotated[dict, POINT]):
    return p["x"]


def test_a_struct_is_a_dict(bench: Bench, define: Define) -> None:
    given = rows(p=pa.array([{"x": 1.5, "label": None}], POINT))
    assert bench.run(define(of_points), given).values == {0: 1.5}
