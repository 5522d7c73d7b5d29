"""A stand-in for the model APIs on 127.0.0.1, so that the real programs do real work without a network or a key.

It speaks what the four programs speak: Anthropic's messages (Claude Code), OpenAI's responses (Codex) and chat
completions (OpenCode, aider), streamed or whole. `play` says how it behaves from now on: one act for each place in a
turn, which is told from the conversation that came and not counted, for programs try again by themselves. So
`play("shell", "hang")` lets the agent run a command and hangs once its output has come back.

    python3 tests/agents_real/model_api.py PORT ACT...    by hand; each request is printed on standard error
"""

import json
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACTS = ("say", "shell", "ask", "hang", "limited", "overloaded", "refused")
ANSWER = "The feature is done: parser.py now handles empty input."
QUESTION = {
    "question": "Which port should the service use?",
    "header": "Port",
    "multiSelect": False,
    "options": [
        {"label": "8080", "description": "as in staging"},
        {"label": "9090", "description": "as in production"},
    ],
}
LIMITED = "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000."


class ModelApi:
    """A server in a thread of its own; `port` is its own choice unless one is given."""

    def __init__(self, port=0, *, tell=None):
        self.command = "echo hello > made_by_agent.txt"
        self.reset_in = 4
        self._acts = ("say",)
        self._requests = []
        self._changed = threading.Condition()
        self._released = threading.Event()
        self._tell = tell
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (_Request,), {"api": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def play(self, *acts, command=None):
        """From now on: acts[n] when n tools have answered since the person last spoke; the last act stays."""
        assert set(acts) <= set(ACTS), acts
        with self._changed:
            self._acts = acts
            self.command = command or self.command
            self._requests.clear()
            self._released.set()
            self._released = threading.Event()

    def release(self):
        """Let those go on that hang: they are answered."""
        self._released.set()

    def asked(self, act):
        """The conversations that were answered with this act since the last `play`, as JSON texts."""
        with self._changed:
            return [body for kind, body in self._requests if kind == act]

    def wait_for(self, act, seconds):
        """True once a request came that is answered with this act."""
        with self._changed:
            return self._changed.wait_for(lambda: any(kind == act for kind, _ in self._requests), seconds)

    def act_for(self, request, path):
        """The act for this request; what has no tools and no place in the turn (a title, a commit message) is said."""
        place = _answered_tools(request)
        act = self._acts[min(place, len(self._acts) - 1)]
        if act in ("shell", "ask") and not request.get("tools"):
            act = "say"
        with self._changed:
            self._requests.append((act, json.dumps(request)))
            self._changed.notify_all()
        if self._tell is not None:
            self._tell(f"{path} {request.get('model')} {act}")
        return act, self._released


def _answered_tools(request):
    """How many results of tools came after the last words of a person, in any of the three dialects."""
    place = 0
    for message in request.get("messages") or request.get("input") or ():
        content = message.get("content")
        kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        if message.get("role") == "tool" or message.get("type", "").endswith("_call_output"):
            place += 1
        elif "tool_result" in kinds:
            place += kinds.count("tool_result")
        elif message.get("role") == "user":
            place = 0
    return place


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ModelApi

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._whole(200, {})

    def do_GET(self):
        self._whole(200, {"object": "list", "data": [], "models": []})

    def handle(self):
        with suppress(ConnectionError):  # a program that was killed in the middle
            super().handle()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            request = json.loads(body)
        except ValueError:
            request = {}
        path = self.path.partition("?")[0]
        dialect = next((speak for ending, speak in _DIALECTS.items() if path.endswith(ending)), None)
        if dialect is None:
            return self._whole(404, {"error": {"message": f"no {path} here", "type": "not_found_error"}})
        if path.endswith("count_tokens"):
            return self._whole(200, {"input_tokens": 10})
        act, released = self.api.act_for(request, path)
        if act == "hang":
            released.wait(600)
            act = "say"
        if act in _REFUSALS:
            return self._refuse(act, anthropic=dialect is _messages)
        whole, events = dialect(request, act, self.api.command)
        if request.get("stream"):
            return self._stream(events)
        return self._whole(200, whole)

    def _refuse(self, act, *, anthropic):
        status, kind, text = _REFUSALS[act]["anthropic" if anthropic else "openai"]
        reset = self.api.reset_in
        headers = {}
        if act == "limited" and anthropic:
            headers = {
                "retry-after": str(reset),
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-reset": str(int(time.time()) + reset),
                "anthropic-ratelimit-unified-representative-claim": "five_hour",
            }
        elif act == "limited":
            headers = {"retry-after": str(reset)}
            text = f"{text} Please try again in {reset}.5s."
        error = {"type": kind, "message": text}
        whole = {"type": "error", "error": error} if anthropic else {"error": {**error, "param": None, "code": kind}}
        return self._whole(status, whole, headers)

    def _whole(self, status, body, headers=None):
        data = b"" if self.command == "HEAD" else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            name = event.get("type") if isinstance(event, dict) else None
            text = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode())
        self.close_connection = True


_REFUSALS = {
    "limited": {
        "anthropic": (429, "rate_limit_error", "This request would exceed your account's rate limit."),
        "openai": (429, "rate_limit_exceeded", LIMITED),
    },
    "overloaded": {
        "anthropic": (529, "overloaded_error", "Overloaded"),
        "openai": (503, "server_error", "The server is overloaded"),
    },
    "refused": {
        "anthropic": (401, "authentication_error", "invalid x-api-key"),
        "openai": (401, "invalid_api_key", "Incorrect API key provided"),
    },
}


def _tool(request, act, command):
    """The tool that this act calls, of those that are offered, and what it is given; none: it is said instead."""
    offered = {tool.get("name") or (tool.get("function") or {}).get("name") for tool in request.get("tools") or ()}
    if act == "ask":
        calls = {
            "AskUserQuestion": {"questions": [QUESTION]},
            "request_user_input": {"questions": [{**QUESTION, "id": "port"}]},
            "question": {"questions": [QUESTION]},
        }
    else:
        calls = {
            "Bash": {"command": command, "description": "write a file"},
            "bash": {"command": command, "description": "write a file"},
            "exec_command": {"cmd": command},
            "shell_command": {"command": command},
            "shell": {"command": ["sh", "-c", command]},
        }
    return next(((name, given) for name, given in calls.items() if name in offered), (None, None))


def _messages(request, act, command):
    name, given = _tool(request, act, command) if act in ("shell", "ask") else (None, None)
    number = time.monotonic_ns()
    usage = {
        "input_tokens": 1200,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 300,
        "output_tokens": 42,
    }
    block = (
        {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}
        if name
        else {"type": "text", "text": ANSWER}
    )
    stop = "tool_use" if name else "end_turn"
    whole = {
        "id": f"msg_{number}", "type": "message", "role": "assistant", "model": request.get("model"),
        "content": [block], "stop_reason": stop, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    empty = {**block, "input": {}} if name else {**block, "text": ""}
    delta = (
        {"type": "input_json_delta", "partial_json": json.dumps(given)}
        if name
        else {"type": "text_delta", "text": ANSWER}
    )
    started = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    return whole, [
        {"type": "message_start", "message": started},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": 42},
        },
        {"type": "message_stop"},
    ]


def _responses(request, act, command):
    name, given = _tool(request, act, command) if act in ("shell", "ask") else (None, None)
    number = time.monotonic_ns()
    if name:
        item = {
            "id": f"fc_{number}", "type": "function_call", "status": "completed", "call_id": f"call_{number}",
            "name": name, "arguments": json.dumps(given),
        }  # fmt: skip
        begun = {**item, "status": "in_progress", "arguments": ""}
    else:
        said = {"type": "output_text", "text": ANSWER, "annotations": []}
        item = {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant", "content": [said]}
        begun = {**item, "status": "in_progress", "content": []}
    usage = {
        "input_tokens": 1500, "input_tokens_details": {"cached_tokens": 300}, "output_tokens": 42,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 1542,
    }  # fmt: skip
    whole = {
        "id": f"resp_{number}", "object": "response", "created_at": int(time.time()), "status": "completed",
        "model": request.get("model"), "output": [item], "usage": usage,
    }  # fmt: skip
    return whole, [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": [], "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]


def _chat(request, act, command):
    name, given = _tool(request, act, command) if act in ("shell", "ask") else (None, None)
    number = time.monotonic_ns()
    usage = {"prompt_tokens": 1500, "completion_tokens": 42, "total_tokens": 1542}
    head = {"id": f"chat_{number}", "created": int(time.time()), "model": request.get("model")}
    if name:
        call = {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        message, finish = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
        delta = {**message, "tool_calls": [{"index": 0, **call}]}
    else:
        message = delta = {"role": "assistant", "content": ANSWER}
        finish = "stop"
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    chunk = {**head, "object": "chat.completion.chunk"}
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage}, [
        {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": usage},
        "[DONE]",
    ]


_DIALECTS = {
    "/messages": _messages,
    "/messages/count_tokens": _messages,
    "/responses": _responses,
    "/chat/completions": _chat,
}


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    api = ModelApi(int(sys.argv[1]), tell=lambda line: print(line, file=sys.stderr, flush=True))
    api.play(*sys.argv[2:])
    threading.Event().wait()


if __name__ == "__main__":
    main()
