"""What is measured: one queue, with its server and its driver."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

_BENCHMARKS = Path(__file__).resolve().parents[1]


class Subject:
    """A driver in a process of its own, asked by name: `subject.ask("submit", 0.5)`."""

    def __init__(self, name: str, label: str, python: str, *arguments: str) -> None:
        self.name = name
        self.label = label
        environment = {**os.environ, "PYTHONPATH": str(_BENCHMARKS), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [python, "-m", f"peers.drivers.{name}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=_BENCHMARKS,
            text=True,
        )
        self.versions: str = self.ask("versions")

    def ask(self, operation: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([operation, arguments]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError(f"the driver of {self.label} died") from None
        answer = json.loads(self._process.stdout.readline() or '{"error": "it died"}')
        if "error" in answer:
            raise RuntimeError(f"{self.label}, {operation}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
