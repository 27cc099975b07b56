"""What a function is, as the server tells it: checked once, and plain from then on.

Everything in it comes from users. Whatever is not understood is refused with words for its author,
and nothing is taken for granted that the server may have checked as well.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakebed.functions import arrow_types

# The file that has the entry point, whatever else is shipped with it.
ENTRY_FILE = "user_function.py"
ADAPTER = ("scalar_to_arrow_batch", 1)
# Columns that stand beside the values when results are handed in.
RESERVED = {"_rowid", "error", "error_type", "traceback"}
_PATH = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*/)*[A-Za-z_][A-Za-z0-9_]*\.py")
_VARIABLE = re.compile(r"[^=\0]+")


class FunctionFailed(Exception):
    """A function, or its environment, cannot be used at all; the message is for its author.

    Attributes:
        retryable: whether another worker, or a later try, may find it otherwise.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(frozen=True)
class Parameter:
    """A parameter, or a field of the result."""

    name: str
    type: pa.DataType
    nullable: bool
    is_blob: bool = False


@dataclass(frozen=True)
class Definition:
    """One version of a function with its constants."""

    # For people.
    name: str
    # What has the same digest computes the same.
    digest: str
    entrypoint: str
    # Python sources by their path below the folder that they are imported from.
    files: Mapping[str, str] = field(repr=False)
    inputs: tuple[Parameter, ...]
    output: tuple[Parameter, ...]
    # Whether the result is a named struct, with one column for each of its fields.
    is_struct: bool
    # The one row that an instance is made with, as an Arrow IPC stream.
    initialization: bytes | None = field(repr=False)
    python_version: str
    gpu: bool
    environment_kind: str
    packages: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    # Never in a log, a file or an error.
    secrets: Mapping[str, str] = field(repr=False)

    def input_schema(self) -> pa.Schema:
        """One column for each parameter."""
        return pa.schema([pa.field(p.name, p.type, p.nullable) for p in self.inputs])

    def output_schema(self) -> pa.Schema:
        """One column for each field of the result, or `value`. All may be null: a row that failed
        has no value."""
        return pa.schema([pa.field(p.name, p.type) for p in self.output])


def parse(body: bytes, digest: str) -> Definition:
    """The definition that the server sent for a digest.

    Raises:
        FunctionFailed: it is not as the contract has it, or its parts do not fit together.
    """
    try:
        return _parse(json.loads(body), digest)
    except FunctionFailed:
        raise
    except arrow_types.UnknownType as error:
        raise FunctionFailed(f"the function's signature: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # Not the value, which may be a secret.
        what = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else type(error)
        raise FunctionFailed(f"the function's definition is not understood: {what}") from None


def _parse(given: dict[str, Any], digest: str) -> Definition:
    if given["digest"] != digest:
        raise FunctionFailed(
            f"the function's definition is {given['digest']}, and {digest} was asked for",
            retryable=True,
        )
    artifact, signature, runtime = given["artifact"], given["signature"], given["runtime"]
    python_version, environment, gpu = _runtime(runtime)
    output, is_struct = _output(signature["output"])
    return Definition(
        name=str(given.get("name") or artifact["entrypoint"]),
        digest=digest,
        entrypoint=_identifier(artifact["entrypoint"]),
        files=_files(artifact),
        inputs=tuple(_parameter(value) for value in signature["inputs"]),
        output=output,
        is_struct=is_struct,
        initialization=_initialization(given.get("initialization")),
        python_version=python_version,
        gpu=gpu,
        environment_kind=str(environment.get("kind")),
        packages=tuple(sorted(_package(value) for value in environment.get("packages") or ())),
        env=_variables(runtime.get("env")),
        secrets=_variables(given.get("secrets")),
    )


def _identifier(value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise FunctionFailed("the artifact's entrypoint is not a name")
    return value


def _files(artifact: dict[str, Any]) -> dict[str, str]:
    """The sources, after their digest was compared."""
    adapter = artifact.get("adapter") or {}
    if (adapter.get("kind"), adapter.get("version")) != ADAPTER:
        raise FunctionFailed(f"the artifact's adapter {adapter.get('kind')!r} is not known")
    if artifact["content"]["encoding"] != "base64":
        raise FunctionFailed("the artifact's content is not in base64")
    try:
        content = base64.b64decode(artifact["content"]["data"], validate=True)
    except binascii.Error:
        raise FunctionFailed("the artifact's content is not base64") from None
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != artifact["digest"]:
        raise FunctionFailed(f"the artifact is {found}, and {artifact['digest']} was registered")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise FunctionFailed("the artifact's content is not UTF-8") from None
    if artifact["kind"] == "python_callable":
        return {ENTRY_FILE: text}
    if artifact["kind"] != "python_bundle":
        raise FunctionFailed(f"artifacts of kind {artifact['kind']!r} are not run")
    files = json.loads(text)["files"]
    for path, source in files.items():
        if not _PATH.fullmatch(path) or not isinstance(source, str):
            raise FunctionFailed(f"the artifact has a file {path!r}, which is not a module")
    if ENTRY_FILE not in files:
        raise FunctionFailed(f"the artifact has no {ENTRY_FILE}")
    return dict(files)


def _parameter(value: dict[str, Any]) -> Parameter:
    name, text, nullable = value["name"], value["arrow_type"], value["nullable"]
    if not isinstance(name, str) or not isinstance(text, str) or not isinstance(nullable, bool):
        raise FunctionFailed("a parameter of the signature is not understood")
    return Parameter(name, arrow_types.parse(text), nullable, text == arrow_types.BLOB)


def _output(value: dict[str, Any]) -> tuple[tuple[Parameter, ...], bool]:
    if value["kind"] == "scalar":
        # The client omits what is false.
        named = {"name": "value", "nullable": False, **value}
        return (_parameter({**named, "nullable": bool(named["nullable"])}),), False
    if value["kind"] != "named_struct":
        raise FunctionFailed(f"results of kind {value['kind']!r} are not known")
    fields = tuple(_parameter(each) for each in value["fields"])
    if not fields or len({each.name for each in fields}) != len(fields):
        raise FunctionFailed("the fields of a result have names of their own, and there is one")
    if taken := RESERVED & {each.name for each in fields}:
        raise FunctionFailed(f"fields of a result cannot be named {', '.join(sorted(taken))}")
    return fields, True


def _initialization(value: Any) -> bytes | None:
    if value is None:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise FunctionFailed("the function's initialization is not base64") from None


def _runtime(runtime: dict[str, Any]) -> tuple[str, dict[str, Any], bool]:
    if runtime["kind"] not in {"python", "python_v2"}:
        raise FunctionFailed(f"functions of runtime {runtime['kind']!r} are not run; python is")
    version, environment = runtime["python_version"], runtime["environment"]
    if not isinstance(version, str) or not isinstance(environment, dict):
        raise FunctionFailed("the function's runtime is not understood")
    return version, environment, runtime.get("gpu") is True


def _package(value: Any) -> str:
    """A requirement, and not one of pip's options, which could say where code comes from."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise FunctionFailed("a package of the function's environment is not a requirement")
    if value.lstrip().startswith("-"):
        raise FunctionFailed(f"package {value[:200]!r} is an option of pip, not a requirement")
    return value.strip()


def _variables(value: Any) -> dict[str, str]:
    """Environment variables. An error says the name only."""
    if value is None:
        return {}
    for name, text in value.items():
        if not _VARIABLE.fullmatch(name) or not isinstance(text, str) or "\0" in text:
            raise FunctionFailed(f"variable {name!r} cannot be set in an environment")
    return dict(value)
