"""A program that speaks as Claude Code does, and does what its prompt says: one word of the script an attempt.

    python agent.py STATE [--resume SESSION]

It counts its runs in the file STATE, where it also notes what it was given, so that a test can read it.
"""

import json
import sys
import time
from pathlib import Path


def say(**event):
    print(json.dumps(event), flush=True)


def result(session, text, *, error=False, **more):
    say(type="result", subtype="success", is_error=error, result=text, session_id=session, total_cost_usd=0.25,
        usage={"input_tokens": 10, "output_tokens": 5}, **more)  # fmt: skip


def main():
    state = Path(sys.argv[1])
    runs = json.loads(state.read_text()) if state.exists() else []
    prompt = sys.stdin.read()
    runs.append({"argv": sys.argv[2:], "prompt": prompt, "cwd": str(Path.cwd())})
    state.write_text(json.dumps(runs))
    script = json.loads(Path(state.with_suffix(".script")).read_text())
    word, *rest = script[min(len(runs), len(script)) - 1]
    session = sys.argv[3] if sys.argv[2:3] == ["--resume"] else f"session-{len(runs)}"
    say(type="system", subtype="init", session_id=session)
    match word:
        case "ok":
            say(
                type="assistant", session_id=session, message={"id": "m", "content": [{"type": "text", "text": "done"}]}
            )
            result(session, rest[0] if rest else "done")
        case "limit":
            info = {"status": "rejected", "rateLimitType": "five_hour"}
            if rest:
                info["resetsAt"] = time.time() + rest[0]
            say(type="rate_limit_event", session_id=session, rate_limit_info=info)
            result(session, "You've hit your limit", error=True, api_error_status=429)
            sys.exit(1)
        case "fail":
            result(session, rest[0] if rest else "it broke", error=True)
            sys.exit(1)
        case "auth":
            result(session, "Invalid API key", error=True, api_error_status=401)
            sys.exit(1)
        case "ask":
            asked = {"questions": [{"question": rest[0], "options": [{"label": label} for label in rest[1:]]}]}
            result(session, "I asked", permission_denials=[{"tool_name": "AskUserQuestion", "tool_input": asked}])
        case "work":  # until the gate opens
            todos = [{"content": "a", "status": "completed"}, {"content": "b", "status": "in_progress"}]
            use = {"type": "tool_use", "id": "t", "name": "TodoWrite", "input": {"todos": todos}}
            usage = {"input_tokens": 7, "output_tokens": 3}
            say(type="assistant", session_id=session, message={"id": "m", "content": [use], "usage": usage})
            with Path(rest[0]).open() as gate:
                gate.readline()
            result(session, "done")


main()
