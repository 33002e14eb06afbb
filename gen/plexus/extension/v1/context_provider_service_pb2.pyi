from plexus.common.v1 import message_pb2 as _message_pb2
from plexus.common.v1 import scope_pb2 as _scope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeProvidersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeProvidersResponse(_message.Message):
    __slots__ = ("providers",)
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    providers: _containers.RepeatedCompositeFieldContainer[ContextProvider]
    def __init__(self, providers: _Optional[_Iterable[_Union[ContextProvider, _Mapping]]] = ...) -> None: ...

class ContextProvider(_message.Message):
    __slots__ = ("name", "depends_on", "timeout_ms", "ttl_ms", "invalidate_on")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEPENDS_ON_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    INVALIDATE_ON_FIELD_NUMBER: _ClassVar[int]
    name: str
    depends_on: _containers.RepeatedScalarFieldContainer[str]
    timeout_ms: int
    ttl_ms: int
    invalidate_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., depends_on: _Optional[_Iterable[str]] = ..., timeout_ms: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., invalidate_on: _Optional[_Iterable[str]] = ...) -> None: ...

class ProvideContextRequest(_message.Message):
    __slots__ = ("scope", "provider", "messages", "dependencies", "token_budget")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    provider: str
    messages: _containers.RepeatedCompositeFieldContainer[_message_pb2.Message]
    dependencies: _containers.RepeatedCompositeFieldContainer[ContextItem]
    token_budget: int
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., provider: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[_message_pb2.Message, _Mapping]]] = ..., dependencies: _Optional[_Iterable[_Union[ContextItem, _Mapping]]] = ..., token_budget: _Optional[int] = ...) -> None: ...

class ProvideContextResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ContextItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ContextItem, _Mapping]]] = ...) -> None: ...

class ContextItem(_message.Message):
    __slots__ = ("provider", "text", "source")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    provider: str
    text: str
    source: str
    def __init__(self, provider: _Optional[str] = ..., text: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...
