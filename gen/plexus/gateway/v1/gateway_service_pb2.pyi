import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from plexus.cache.v1 import cache_service_pb2 as _cache_service_pb2
from plexus.common.v1 import error_pb2 as _error_pb2
from plexus.common.v1 import message_pb2 as _message_pb2
from plexus.common.v1 import model_pb2 as _model_pb2
from plexus.common.v1 import scope_pb2 as _scope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MemoryPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEMORY_POLICY_UNSPECIFIED: _ClassVar[MemoryPolicy]
    MEMORY_POLICY_DEGRADE: _ClassVar[MemoryPolicy]
    MEMORY_POLICY_REQUIRE: _ClassVar[MemoryPolicy]
MEMORY_POLICY_UNSPECIFIED: MemoryPolicy
MEMORY_POLICY_DEGRADE: MemoryPolicy
MEMORY_POLICY_REQUIRE: MemoryPolicy

class ChatRequest(_message.Message):
    __slots__ = ("turn", "resume")
    TURN_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    turn: Turn
    resume: Resume
    def __init__(self, turn: _Optional[_Union[Turn, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("scope", "request", "idempotency_key", "memory", "cache", "resume_window_ms", "quiet")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    RESUME_WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    QUIET_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    request: _model_pb2.ModelRequest
    idempotency_key: str
    memory: MemoryOptions
    cache: _cache_service_pb2.CacheControl
    resume_window_ms: int
    quiet: bool
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., request: _Optional[_Union[_model_pb2.ModelRequest, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., cache: _Optional[_Union[_cache_service_pb2.CacheControl, _Mapping]] = ..., resume_window_ms: _Optional[int] = ..., quiet: _Optional[bool] = ...) -> None: ...

class MemoryOptions(_message.Message):
    __slots__ = ("no_recall", "no_remember", "recall_token_budget", "policy", "no_window")
    NO_RECALL_FIELD_NUMBER: _ClassVar[int]
    NO_REMEMBER_FIELD_NUMBER: _ClassVar[int]
    RECALL_TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NO_WINDOW_FIELD_NUMBER: _ClassVar[int]
    no_recall: bool
    no_remember: bool
    recall_token_budget: int
    policy: MemoryPolicy
    no_window: bool
    def __init__(self, no_recall: _Optional[bool] = ..., no_remember: _Optional[bool] = ..., recall_token_budget: _Optional[int] = ..., policy: _Optional[_Union[MemoryPolicy, str]] = ..., no_window: _Optional[bool] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("resume_token", "after_sequence")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    after_sequence: int
    def __init__(self, resume_token: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class ChatResponse(_message.Message):
    __slots__ = ("sequence", "started", "stage", "text", "reasoning", "tool_call", "tool_result", "attempt", "reset", "warning", "usage", "completed", "failed", "refusal")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    TOOL_RESULT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    started: Started
    stage: Stage
    text: str
    reasoning: str
    tool_call: _message_pb2.ToolCall
    tool_result: ToolResult
    attempt: Attempt
    reset: Reset
    warning: Warning
    usage: UsageReport
    completed: Completed
    failed: _error_pb2.Failure
    refusal: str
    def __init__(self, sequence: _Optional[int] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., stage: _Optional[_Union[Stage, _Mapping]] = ..., text: _Optional[str] = ..., reasoning: _Optional[str] = ..., tool_call: _Optional[_Union[_message_pb2.ToolCall, _Mapping]] = ..., tool_result: _Optional[_Union[ToolResult, _Mapping]] = ..., attempt: _Optional[_Union[Attempt, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., warning: _Optional[_Union[Warning, _Mapping]] = ..., usage: _Optional[_Union[UsageReport, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., failed: _Optional[_Union[_error_pb2.Failure, _Mapping]] = ..., refusal: _Optional[str] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("request_id", "conversation_id", "resume_token", "start_time")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    conversation_id: str
    resume_token: str
    start_time: _timestamp_pb2.Timestamp
    def __init__(self, request_id: _Optional[str] = ..., conversation_id: _Optional[str] = ..., resume_token: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("name", "duration_ms", "verdict")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    name: str
    duration_ms: float
    verdict: str
    def __init__(self, name: _Optional[str] = ..., duration_ms: _Optional[float] = ..., verdict: _Optional[str] = ...) -> None: ...

class ToolResult(_message.Message):
    __slots__ = ("tool_call_id", "content", "is_error")
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IS_ERROR_FIELD_NUMBER: _ClassVar[int]
    tool_call_id: str
    content: str
    is_error: bool
    def __init__(self, tool_call_id: _Optional[str] = ..., content: _Optional[str] = ..., is_error: _Optional[bool] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("number", "deployment", "why", "failure")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    number: int
    deployment: str
    why: str
    failure: _error_pb2.Failure
    def __init__(self, number: _Optional[int] = ..., deployment: _Optional[str] = ..., why: _Optional[str] = ..., failure: _Optional[_Union[_error_pb2.Failure, _Mapping]] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("after_sequence", "why")
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    after_sequence: int
    why: str
    def __init__(self, after_sequence: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("reason", "component", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    component: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., component: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class UsageReport(_message.Message):
    __slots__ = ("usage", "cost", "saved")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    usage: _model_pb2.Usage
    cost: _model_pb2.Cost
    saved: _model_pb2.Cost
    def __init__(self, usage: _Optional[_Union[_model_pb2.Usage, _Mapping]] = ..., cost: _Optional[_Union[_model_pb2.Cost, _Mapping]] = ..., saved: _Optional[_Union[_model_pb2.Cost, _Mapping]] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("finish_reason", "model", "provider", "cache_verdict", "recalled_count", "time_to_first_token_ms", "duration_ms", "upstream_ms")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    CACHE_VERDICT_FIELD_NUMBER: _ClassVar[int]
    RECALLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MS_FIELD_NUMBER: _ClassVar[int]
    finish_reason: _model_pb2.FinishReason
    model: str
    provider: str
    cache_verdict: _cache_service_pb2.Verdict
    recalled_count: int
    time_to_first_token_ms: float
    duration_ms: float
    upstream_ms: float
    def __init__(self, finish_reason: _Optional[_Union[_model_pb2.FinishReason, str]] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ..., cache_verdict: _Optional[_Union[_cache_service_pb2.Verdict, str]] = ..., recalled_count: _Optional[int] = ..., time_to_first_token_ms: _Optional[float] = ..., duration_ms: _Optional[float] = ..., upstream_ms: _Optional[float] = ...) -> None: ...

class CompleteRequest(_message.Message):
    __slots__ = ("turn",)
    TURN_FIELD_NUMBER: _ClassVar[int]
    turn: Turn
    def __init__(self, turn: _Optional[_Union[Turn, _Mapping]] = ...) -> None: ...

class CompleteResponse(_message.Message):
    __slots__ = ("request_id", "conversation_id", "response", "usage", "completed", "warnings", "stages")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    conversation_id: str
    response: _model_pb2.ModelResponse
    usage: UsageReport
    completed: Completed
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, request_id: _Optional[str] = ..., conversation_id: _Optional[str] = ..., response: _Optional[_Union[_model_pb2.ModelResponse, _Mapping]] = ..., usage: _Optional[_Union[UsageReport, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class CancelChatRequest(_message.Message):
    __slots__ = ("resume_token",)
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    def __init__(self, resume_token: _Optional[str] = ...) -> None: ...

class CancelChatResponse(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: bool
    def __init__(self, cancelled: _Optional[bool] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("scope", "model", "texts")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    model: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., model: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("embeddings", "model", "usage")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    model: str
    usage: _model_pb2.Usage
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., model: _Optional[str] = ..., usage: _Optional[_Union[_model_pb2.Usage, _Mapping]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "deployments", "operation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    deployments: _containers.RepeatedScalarFieldContainer[str]
    operation: str
    def __init__(self, name: _Optional[str] = ..., deployments: _Optional[_Iterable[str]] = ..., operation: _Optional[str] = ...) -> None: ...
