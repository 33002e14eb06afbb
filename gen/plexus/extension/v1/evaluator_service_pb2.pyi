from plexus.common.v1 import message_pb2 as _message_pb2
from plexus.common.v1 import model_pb2 as _model_pb2
from plexus.common.v1 import scope_pb2 as _scope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeEvaluatorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeEvaluatorsResponse(_message.Message):
    __slots__ = ("evaluators",)
    EVALUATORS_FIELD_NUMBER: _ClassVar[int]
    evaluators: _containers.RepeatedCompositeFieldContainer[Evaluator]
    def __init__(self, evaluators: _Optional[_Iterable[_Union[Evaluator, _Mapping]]] = ...) -> None: ...

class Evaluator(_message.Message):
    __slots__ = ("name", "sample_every", "timeout_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_EVERY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    sample_every: int
    timeout_ms: int
    def __init__(self, name: _Optional[str] = ..., sample_every: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class EvaluateRequest(_message.Message):
    __slots__ = ("scope", "evaluator", "request_id", "messages", "response")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    evaluator: str
    request_id: str
    messages: _containers.RepeatedCompositeFieldContainer[_message_pb2.Message]
    response: _model_pb2.ModelResponse
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., evaluator: _Optional[str] = ..., request_id: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[_message_pb2.Message, _Mapping]]] = ..., response: _Optional[_Union[_model_pb2.ModelResponse, _Mapping]] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("scores", "comment", "memories")
    class ScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SCORES_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.ScalarMap[str, float]
    comment: str
    memories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scores: _Optional[_Mapping[str, float]] = ..., comment: _Optional[str] = ..., memories: _Optional[_Iterable[str]] = ...) -> None: ...
