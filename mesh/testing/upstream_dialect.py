"""How OpenAI's and Anthropic's APIs spell a scripted answer."""

import orjson

from mesh.testing.upstream_script import Json, Recorded, Script


class Dialect:
    """How one API spells an answer."""

    def __init__(self, recorded: Recorded, script: Script) -> None:
        self.recorded = recorded
        self.script = script

    def start(self) -> list[bytes]:
        raise NotImplementedError

    def token(self, text: str) -> bytes:
        raise NotImplementedError

    def error_record(self) -> bytes:
        raise NotImplementedError

    def end(self) -> list[bytes]:
        raise NotImplementedError

    def whole(self) -> Json:
        raise NotImplementedError

    def error_body(self) -> object:
        error = self.script.error
        return {
            "error": error if error is not None else {"message": "scripted", "type": "server_error"}
        }

    def record(self, data: Json | bytes, name: str = "") -> bytes:
        end = self.script.line_end
        payload = data if isinstance(data, bytes) else orjson.dumps(data)
        head = f"event: {name}{end}" if name else ""
        comment = f": comment{end}{end}" if self.script.comments else ""
        return f"{comment}{head}data: ".encode() + payload + f"{end}{end}".encode()


class OpenAIDialect(Dialect):
    def start(self) -> list[bytes]:
        pieces = [self._chunk({"role": "assistant", "content": ""})]
        pieces += [self._chunk({"reasoning_content": text}) for text in self.script.reasoning]
        return pieces

    def token(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def error_record(self) -> bytes:
        error = self.script.error or {"message": "scripted", "type": "server_error"}
        return self.record({"error": error})

    def end(self) -> list[bytes]:
        records = [chunk for at in range(len(self.script.tool_calls)) for chunk in self._call(at)]
        reason = self._finish_reason()
        if reason:
            records.append(self._chunk({}, finish_reason=reason))
        if self.script.usage is not None and self._wants_usage():
            records.append(self.record({**self._head(), "choices": [], "usage": self._usage()}))
        if self.script.with_end_mark:
            records.append(self.record(b"[DONE]"))
        return records

    def whole(self) -> Json:
        message: Json = {"role": "assistant", "content": "".join(self.script.tokens)}
        if self.script.reasoning:
            message["reasoning_content"] = "".join(self.script.reasoning)
        if self.script.tool_calls:
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, name, arguments in self.script.tool_calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason()}
        answer: Json = {**self._head(), "object": "chat.completion", "choices": [choice]}
        if self.script.usage is not None:
            answer["usage"] = self._usage()
        return answer

    def _head(self) -> Json:
        return {
            "id": "chatcmpl-scripted",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": self.recorded.model,
        }

    def _chunk(self, delta: Json, *, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self.record({**self._head(), "choices": [choice]})

    def _call(self, at: int) -> list[bytes]:
        id, name, arguments = self.script.tool_calls[at]
        first = {
            "index": at,
            "id": id,
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        middle = len(arguments) // 2
        rest = [
            {"index": at, "function": {"arguments": part}}
            for part in (arguments[:middle], arguments[middle:])
        ]
        return [self._chunk({"tool_calls": [call]}) for call in (first, *rest)]

    def _finish_reason(self) -> str:
        if self.script.finish_reason is not None:
            return self.script.finish_reason
        return "tool_calls" if self.script.tool_calls else "stop"

    def _wants_usage(self) -> bool:
        options: Json = self.recorded.body.get("stream_options") or {}
        return bool(options.get("include_usage"))

    def _usage(self) -> Json:
        usage = self.script.usage or {}
        counted = {"prompt_tokens": 10, "completion_tokens": len(self.script.tokens)}
        total = {"total_tokens": 10 + len(self.script.tokens)}
        return dict(usage) if usage else counted | total


class AnthropicDialect(Dialect):
    def start(self) -> list[bytes]:
        usage = {**self._input_usage(), "output_tokens": 1}
        message: Json = {**self._head(), "content": [], "stop_reason": None, "usage": usage}
        records = [self._event({"type": "message_start", "message": message})]
        records.append(self._event({"type": "ping"}))
        if self.script.reasoning:
            records.append(self._block(0, {"type": "thinking", "thinking": "", "signature": ""}))
            records += [
                self._delta(0, {"type": "thinking_delta", "thinking": text})
                for text in self.script.reasoning
            ]
            records.append(self._event({"type": "content_block_stop", "index": 0}))
        if self.script.tokens:
            records.append(self._block(self._text_index(), {"type": "text", "text": ""}))
        return records

    def token(self, text: str) -> bytes:
        return self._delta(self._text_index(), {"type": "text_delta", "text": text})

    def error_record(self) -> bytes:
        error = self.script.error or {"type": "overloaded_error", "message": "scripted"}
        return self._event({"type": "error", "error": error})

    def end(self) -> list[bytes]:
        records: list[bytes] = []
        if self.script.tokens:
            records.append(self._event({"type": "content_block_stop", "index": self._text_index()}))
        first_call = self._text_index() + bool(self.script.tokens)
        for at, call in enumerate(self.script.tool_calls):
            records += self._call(first_call + at, call)
        if reason := self._stop_reason():
            delta: Json = {"type": "message_delta", "delta": {"stop_reason": reason}}
            if self.script.usage is not None:
                delta["usage"] = self._output_usage()
            records.append(self._event(delta))
        if self.script.with_end_mark:
            records.append(self._event({"type": "message_stop"}))
        return records

    def whole(self) -> Json:
        content: list[Json] = []
        if self.script.reasoning:
            content.append({"type": "thinking", "thinking": "".join(self.script.reasoning)})
        if self.script.tokens:
            content.append({"type": "text", "text": "".join(self.script.tokens)})
        content += [
            {"type": "tool_use", "id": id, "name": name, "input": orjson.loads(arguments)}
            for id, name, arguments in self.script.tool_calls
        ]
        usage = {**self._input_usage(), **self._output_usage()}
        reason = self._stop_reason()
        return {**self._head(), "content": content, "stop_reason": reason, "usage": usage}

    def error_body(self) -> object:
        error = self.script.error or {"type": "api_error", "message": "scripted"}
        return {"type": "error", "error": error}

    def _head(self) -> Json:
        return {
            "id": "msg_scripted",
            "type": "message",
            "role": "assistant",
            "model": self.recorded.model,
        }

    def _event(self, data: Json) -> bytes:
        return self.record(data, str(data["type"]))

    def _block(self, index: int, block: Json) -> bytes:
        return self._event({"type": "content_block_start", "index": index, "content_block": block})

    def _delta(self, index: int, delta: Json) -> bytes:
        return self._event({"type": "content_block_delta", "index": index, "delta": delta})

    def _call(self, index: int, call: tuple[str, str, str]) -> list[bytes]:
        id, name, arguments = call
        middle = len(arguments) // 2
        parts = (arguments[:middle], arguments[middle:])
        return [
            self._block(index, {"type": "tool_use", "id": id, "name": name, "input": {}}),
            *(self._delta(index, {"type": "input_json_delta", "partial_json": p}) for p in parts),
            self._event({"type": "content_block_stop", "index": index}),
        ]

    def _text_index(self) -> int:
        return int(bool(self.script.reasoning))

    def _stop_reason(self) -> str:
        if self.script.finish_reason is not None:
            return self.script.finish_reason
        return "tool_use" if self.script.tool_calls else "end_turn"

    def _input_usage(self) -> Json:
        usage = {k: v for k, v in (self.script.usage or {}).items() if k != "output_tokens"}
        return usage or {"input_tokens": 10}

    def _output_usage(self) -> Json:
        return {
            "output_tokens": (self.script.usage or {}).get("output_tokens", len(self.script.tokens))
        }
