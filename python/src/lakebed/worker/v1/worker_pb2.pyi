from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
INPUT_PICTURE: Input
INPUT_TEXT: Input
INPUT_UNSPECIFIED: Input

class Assignment(_message.Message):
    __slots__ = ["attempt", "check", "digest", "function", "model", "query", "registered", "rows"]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptId
    check: CheckTask
    digest: str
    function: Function
    model: str
    query: QueryTask
    registered: bool
    rows: RowsTask
    def __init__(self, attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., rows: _Optional[_Union[RowsTask, _Mapping]] = ..., query: _Optional[_Union[QueryTask, _Mapping]] = ..., check: _Optional[_Union[CheckTask, _Mapping]] = ..., function: _Optional[_Union[Function, _Mapping]] = ..., registered: bool = ...) -> None: ...

class AttemptId(_message.Message):
    __slots__ = ["attempt", "job_id", "task"]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    job_id: str
    task: int
    def __init__(self, job_id: _Optional[str] = ..., task: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class CheckTask(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Function(_message.Message):
    __slots__ = ["digest", "name"]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    digest: str
    name: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ["busy_percent", "memory_mb", "memory_used_mb", "name"]
    BUSY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_MB_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    busy_percent: int
    memory_mb: int
    memory_used_mb: int
    name: str
    def __init__(self, name: _Optional[str] = ..., memory_mb: _Optional[int] = ..., memory_used_mb: _Optional[int] = ..., busy_percent: _Optional[int] = ...) -> None: ...

class Interpreter(_message.Message):
    __slots__ = ["gpu", "python_version"]
    GPU_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    gpu: bool
    python_version: str
    def __init__(self, python_version: _Optional[str] = ..., gpu: bool = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ["name", "value"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ["digest", "dimensions", "input", "name"]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    digest: str
    dimensions: int
    input: Input
    name: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., dimensions: _Optional[int] = ..., input: _Optional[_Union[Input, str]] = ...) -> None: ...

class ModelFileRequest(_message.Message):
    __slots__ = ["attempt", "length", "offset", "path"]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptId
    length: int
    offset: int
    path: str
    def __init__(self, attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class QueryTask(_message.Message):
    __slots__ = ["picture", "text"]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    picture: bytes
    text: str
    def __init__(self, text: _Optional[str] = ..., picture: _Optional[bytes] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ["cpus", "gpu_memory_mb", "gpus"]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    cpus: int
    gpu_memory_mb: int
    gpus: int
    def __init__(self, cpus: _Optional[int] = ..., gpus: _Optional[int] = ..., gpu_memory_mb: _Optional[int] = ...) -> None: ...

class Results(_message.Message):
    __slots__ = ["attempts", "stream"]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptId]
    stream: bytes
    def __init__(self, attempts: _Optional[_Iterable[_Union[AttemptId, _Mapping]]] = ..., stream: _Optional[bytes] = ...) -> None: ...

class RowsTask(_message.Message):
    __slots__ = ["database", "input", "output", "rows", "table"]
    DATABASE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    database: str
    input: str
    output: str
    rows: int
    table: str
    def __init__(self, rows: _Optional[int] = ..., database: _Optional[str] = ..., table: _Optional[str] = ..., input: _Optional[str] = ..., output: _Optional[str] = ...) -> None: ...

class StageTime(_message.Message):
    __slots__ = ["busy_ms", "rows", "stage"]
    BUSY_MS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    busy_ms: int
    rows: int
    stage: str
    def __init__(self, stage: _Optional[str] = ..., busy_ms: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class SyncRequest(_message.Message):
    __slots__ = ["device", "done", "failed", "gpus", "instance", "interpreters", "labels", "leaving", "models", "resources", "results", "runners", "running", "slots", "stages", "wait_ms", "worker"]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INTERPRETERS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    RUNNERS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    device: str
    done: _containers.RepeatedCompositeFieldContainer[TaskDone]
    failed: _containers.RepeatedCompositeFieldContainer[TaskFailed]
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    instance: str
    interpreters: _containers.RepeatedCompositeFieldContainer[Interpreter]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    leaving: bool
    models: _containers.RepeatedCompositeFieldContainer[Model]
    resources: Resources
    results: _containers.RepeatedCompositeFieldContainer[Results]
    runners: _containers.RepeatedScalarFieldContainer[str]
    running: _containers.RepeatedCompositeFieldContainer[AttemptId]
    slots: int
    stages: _containers.RepeatedCompositeFieldContainer[StageTime]
    wait_ms: int
    worker: str
    def __init__(self, worker: _Optional[str] = ..., instance: _Optional[str] = ..., slots: _Optional[int] = ..., running: _Optional[_Iterable[_Union[AttemptId, _Mapping]]] = ..., done: _Optional[_Iterable[_Union[TaskDone, _Mapping]]] = ..., failed: _Optional[_Iterable[_Union[TaskFailed, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., device: _Optional[str] = ..., wait_ms: _Optional[int] = ..., leaving: bool = ..., stages: _Optional[_Iterable[_Union[StageTime, _Mapping]]] = ..., interpreters: _Optional[_Iterable[_Union[Interpreter, _Mapping]]] = ..., runners: _Optional[_Iterable[str]] = ..., results: _Optional[_Iterable[_Union[Results, _Mapping]]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ...) -> None: ...

class SyncResponse(_message.Message):
    __slots__ = ["assign", "lease_ms", "recorded", "result_bytes_max", "stop", "sync_ms"]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    RESULT_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SYNC_MS_FIELD_NUMBER: _ClassVar[int]
    assign: _containers.RepeatedCompositeFieldContainer[Assignment]
    lease_ms: int
    recorded: _containers.RepeatedCompositeFieldContainer[AttemptId]
    result_bytes_max: int
    stop: _containers.RepeatedCompositeFieldContainer[AttemptId]
    sync_ms: int
    def __init__(self, assign: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., stop: _Optional[_Iterable[_Union[AttemptId, _Mapping]]] = ..., recorded: _Optional[_Iterable[_Union[AttemptId, _Mapping]]] = ..., lease_ms: _Optional[int] = ..., sync_ms: _Optional[int] = ..., result_bytes_max: _Optional[int] = ...) -> None: ...

class TaskDone(_message.Message):
    __slots__ = ["attempt", "took_ms", "vector"]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptId
    took_ms: int
    vector: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., vector: _Optional[_Iterable[float]] = ..., took_ms: _Optional[int] = ...) -> None: ...

class TaskFailed(_message.Message):
    __slots__ = ["attempt", "error", "retryable"]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptId
    error: str
    retryable: bool
    def __init__(self, attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., error: _Optional[str] = ..., retryable: bool = ...) -> None: ...

class Input(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
