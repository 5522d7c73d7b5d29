"""`make agents-real`: the real programs under opusd, against a stand-in for their model APIs, without a network.

Each program goes through each scenario as a real job of a real daemon. What was seen is written into docs/agents.md,
between its markers, if every scenario of every program went as it should. The programs are installed into `.agents/`
(about 1 GB, once); what each attempt printed is left in `.agents/streams/`.

    make agents-real                            all
    make agents-real ARGS="codex killed"        some; docs/agents.md is left as it is
"""

import argparse
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from tests.agents_real import programs
from tests.agents_real.scenarios import SCENARIOS, Story

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".agents"
PAGE = ROOT / "docs" / "agents.md"
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
BEGIN, END = "<!-- from `make agents-real` -->", "<!-- to here -->"


def main():
    names = [program.name for program in programs.PROGRAMS]
    stories = [scenario.__name__ for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="make agents-real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wanted", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; of {', '.join(stories)}")
    wanted = set(parser.parse_args().wanted)
    if unknown := wanted - {*names, *stories}:
        parser.error(f"there is no program and no story {', '.join(sorted(unknown))}")
    if {name for _, name in socket.if_nameindex()} != {"lo"}:
        programs.install(FOLDER)
        sys.exit(alone())
    raise_loopback()
    versions = programs.said_versions(FOLDER)
    shutil.rmtree(FOLDER / "streams", ignore_errors=True)
    chosen = (
        [program for program in programs.PROGRAMS if program.name in wanted]
        if wanted & set(names)
        else programs.PROGRAMS
    )
    told = [scenario for scenario in SCENARIOS if scenario.__name__ in wanted] if wanted & set(stories) else SCENARIOS
    cells, failures = run(chosen, told)
    if failures:
        sys.exit("\n".join(["", *failures, f"{len(failures)} of {len(cells) + len(failures)} went wrong"]))
    if not wanted:
        write(table(versions, cells))
        print(f"wrote {PAGE.relative_to(ROOT)}")


def alone():
    """This program again in a namespace without a network: its exit code."""
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    argv = [sys.executable, "-m", "tests.agents_real", *sys.argv[1:]]
    return subprocess.run(["unshare", "--net", *mapped, *argv], cwd=ROOT, check=False).returncode


def raise_loopback():
    """`ip link set lo up`, which is not everywhere: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def run(chosen, told):
    """The programs side by side, for they mostly wait: the cells by program and scenario, and what went wrong."""
    cells, failures = {}, []

    def tell(program):
        for scenario in told:
            began = time.monotonic()
            try:
                with Story(program, scenario.__name__, FOLDER) as story:
                    cells[program.name, scenario.__name__] = cell = scenario(story)
            except Exception:  # noqa: BLE001 - told at the end; the other stories go on
                failures.append(f"{program.name} {scenario.__name__}:\n{traceback.format_exc()}")
                cell = "WRONG"
            print(f"{program.name:9} {scenario.__name__:11} {time.monotonic() - began:5.1f} s  {cell}", flush=True)

    threads = [threading.Thread(target=tell, args=(program,)) for program in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return cells, failures


def table(versions, cells):
    """A row a scenario, a column a program."""
    heads = [f"{program.title} {program.version}" for program in programs.PROGRAMS]
    rows = [["", *heads], ["---"] * (len(heads) + 1)]
    rows += [
        [scenario.__doc__, *(cells[program.name, scenario.__name__] for program in programs.PROGRAMS)]
        for scenario in SCENARIOS
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    said = "; ".join(f"`{name} --version` said `{words}`" for name, words in versions.items())
    return "\n".join([*lines, "", f"{said}."])


def write(text):
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
