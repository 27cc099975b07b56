"""What the worker reads of a function before it runs: types, sources, packages, secrets."""

import base64
import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest
from lancedb import blob, udf
from lancedb.functions import _canonical_arrow_field

from lakebed.functions import arrow_types
from lakebed.functions.definition import FunctionFailed, parse
from support.function_types import GRAMMAR
from support.functions import DIGEST, described


@udf(pip=["numpy==2.2.0", "attrs"], env={"MODE": "fast"}, python_version="3.11")
def double(x: int) -> int:
    return x * 2


# ---- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRAMMAR, ids=str)
def test_every_type_of_the_clients_grammar_is_read(kind: pa.DataType) -> None:
    text = _canonical_arrow_field(pa.field("x", kind))
    assert arrow_types.parse(text) == kind


def test_blobs_are_their_bytes() -> None:
    assert arrow_types.parse(_canonical_arrow_field(blob("x"))) == pa.large_binary()
    inside = pa.struct([blob("picture", nullable=False), pa.field("name", pa.string())])
    text = _canonical_arrow_field(pa.field("x", inside))
    assert arrow_types.parse(text) == pa.struct(
        [pa.field("picture", pa.large_binary(), False), pa.field("name", pa.string())]
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "int",
        "list<int64",
        "list<>",
        "fixed_size_list<float32>",
        "fixed_size_list<float32, 0>",
        "fixed_size_list<float32, 99999999999>",
        "{",
        "{}",
        '{"type":"struct","fields":[]}',
        '{"type":"list","fields":[{"name":"item"}]}',
        '{"type":"fixed_size_list","fields":[{"name":"i","type":{"type":"int8"}}],"length":-1}',
        '{"type":"map","fields":[{"name":"i","type":{"type":"int8"}}]}',
        "list<" * 500 + "int8" + ">" * 500,
        '{"type":"list","fields":[{"name":"i","type":' * 3_000,
    ],
)
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(arrow_types.UnknownType):
        arrow_types.parse(text)


# ---- definitions ------------------------------------------------------------------------------


def parsed(value: dict[str, Any]) -> Any:
    return parse(json.dumps(value).encode(), DIGEST)


def test_a_definition_of_the_client() -> None:
    found = parsed(described(double, secrets={"TOKEN": "hidden"}))
    assert found.entrypoint == "double"
    assert list(found.files) == ["user_function.py"]
    assert "return x * 2" in found.files["user_function.py"]
    assert found.packages == ("attrs", "numpy==2.2.0")
    assert (found.python_version, found.env, found.gpu) == ("3.11", {"MODE": "fast"}, False)
    assert [(p.name, p.type, p.nullable) for p in found.inputs] == [("x", pa.int64(), False)]
    assert found.output_schema() == pa.schema([pa.field("value", pa.int64())])
    assert found.secrets == {"TOKEN": "hidden"}
    assert "hidden" not in repr(found)


def test_a_gpu_is_of_another_runtime() -> None:
    value = described(double, kind="python_v2", gpu=True)
    assert parsed(value).gpu


def changed(path: str, to: Any) -> dict[str, Any]:
    value = described(double, secrets={"TOKEN": "hidden"})
    *folders, last = path.split(".")
    inner = value
    for name in folders:
        inner = inner[name]
    inner[last] = to
    return value


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        ("artifact.digest", "sha256:00", "sha256:00 was registered"),
        ("artifact.kind", "wasm", "wasm"),
        ("artifact.adapter", {"kind": "arrow", "version": 1}, "arrow"),
        ("artifact.content", {"encoding": "hex", "data": "00"}, "base64"),
        ("artifact.content", {"encoding": "base64", "data": "?"}, "base64"),
        ("artifact.entrypoint", "a.b", "entrypoint"),
        ("signature.inputs", [{"name": "x", "arrow_type": "int", "nullable": True}], "'int'"),
        ("signature.output", {"kind": "table"}, "table"),
        ("signature.output", {"kind": "named_struct", "fields": []}, "fields"),
        (
            "signature.output",
            {
                "kind": "named_struct",
                "fields": [{"name": "error", "arrow_type": "utf8", "nullable": True}],
            },
            "cannot be named error",
        ),
        ("runtime.kind", "wasm", "wasm"),
        ("runtime.environment", {"kind": "pip", "packages": ["--index-url=http://x"]}, "option"),
        ("runtime.environment", {"kind": "pip", "packages": [" -r /etc/passwd"]}, "option"),
        ("runtime.environment", {"kind": "pip", "packages": ["a\nb"]}, "requirement"),
        ("runtime.env", {"A=B": "c"}, "A=B"),
        ("secrets", {"A=B": "hidden"}, "A=B"),
        ("secrets", {"A": ["hidden"]}, "A"),
        ("secrets", "hidden", "not understood"),
        ("initialization", "?", "initialization"),
        ("runtime", None, "not understood"),
        ("signature", {}, "`output` is missing"),
    ],
)
def test_what_is_not_understood_is_refused(path: str, to: Any, said: str) -> None:
    with pytest.raises(FunctionFailed, match=said) as caught:
        parsed(changed(path, to))
    assert not caught.value.retryable
    assert "hidden" not in str(caught.value)


def test_another_digest_than_asked_for_may_be_tried_again() -> None:
    with pytest.raises(FunctionFailed, match="asked for") as caught:
        parsed(changed("digest", "sha256:other"))
    assert caught.value.retryable


@pytest.mark.parametrize("path", ["../evil.py", "/evil.py", "a/../b.py", "a.so", "a b.py", ""])
def test_a_bundle_has_modules_only(path: str) -> None:
    content = json.dumps({"files": {"user_function.py": "", path: ""}}).encode()
    value = described(double)
    value["artifact"] |= {
        "kind": "python_bundle",
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "content": {"encoding": "base64", "data": base64.b64encode(content).decode()},
    }
    with pytest.raises(FunctionFailed, match="not a module"):
        parsed(value)
