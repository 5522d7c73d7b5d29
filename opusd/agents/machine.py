"""What this machine can do for attempts: holes in files, memory limits by a scope of the user's manager.

Looked at once, when the pool opens.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from opusd.agents.kernel import PAGE, punch_hole

_PROBE_PAGES = 16


def punches_holes(folder: Path) -> bool:
    """Whether the middle of a file in this folder can be given back to the disk."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE_PAGES * PAGE))
        file.flush()
        try:
            punch_hole(file.fileno(), PAGE, (_PROBE_PAGES - 1) * PAGE)
        except OSError:
            return False
        return os.fstat(file.fileno()).st_size == _PROBE_PAGES * PAGE


def scope_program(environment: Mapping[str, str]) -> str | None:
    """systemd-run, where a manager of our user can be reached; what it starts keeps its pid and parent."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if not runtime or not Path(runtime, "systemd/private").is_socket():
        return None
    return shutil.which("systemd-run", path=environment.get("PATH"))


def scope_argv(program: str, unit: str, memory_max: int) -> list[str]:
    """What is put before an agent's argv so that it and all its children share `memory_max` bytes."""
    limit = f"MemoryMax={memory_max}"
    return [program, "--user", "--scope", "--quiet", "--collect", f"--unit={unit}", "-p", limit, "--"]


def scope_unit(job: int, attempt: int, attempt_id: str, *, verify: bool = False) -> str:
    """The scope's name. Its end says whose it is; its beginning keeps it apart from those of another registry."""
    return f"{'verify' if verify else 'opusd'}-{attempt_id[:8]}-opus-{job}-{attempt}.scope"
