"""The libraries of the peers and the profiler, each in a virtual environment of its own under `.bench/`.

One wants what another refuses.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / ".bench"
LIBRARIES = {
    "huey": ["huey>=2.5"],
    "rq": ["rq>=2", "redis[hiredis]"],
    "arq": ["arq>=0.26", "uvloop"],
    "saq": ["saq[redis]>=0.20", "typing_extensions", "redis[hiredis]", "uvloop"],
    "dramatiq": ["dramatiq[redis]>=1.17", "redis[hiredis]"],
    "celery": ["celery[redis]>=5.4", "redis[hiredis]"],
    "procrastinate": ["procrastinate>=3", "psycopg[binary]", "uvloop"],
}
"""Each with the fastest parser and event loop that it can have."""
TOOLS = {"py-spy": ["py-spy>=0.4"]}


def python_of(name: str) -> str:
    """The Python of its environment, made when it is not there; CalledProcessError when it can't be."""
    libraries, folder = {**LIBRARIES, **TOOLS}[name], _FOLDER / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join(libraries)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {wanted.replace(chr(10), ' ')} into .bench/{name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *libraries]
        subprocess.run(pip, check=True, stderr=subprocess.PIPE)
        stamp.write_text(wanted)
    return str(python)
