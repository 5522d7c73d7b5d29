"""What attempts leave behind, a thousand times; and the number of the slot that they run in."""

import os
from pathlib import Path

import pytest

ATTEMPTS = 1000
SLOTS = 16
BATCH = 250

# Two grandchildren in sessions of their own, deaf to TERM, that hold the output and a pipe; each says when it is so.
# Then the agent is done. The folder tells whether another attempt runs in the same slot.
STUBBORN = """
mkdir slot.$OPUS_SLOT || exit 9
mkfifo up.$OPUS_JOB_ID
exec 3<>up.$OPUS_JOB_ID
for _ in 1 2; do
  setsid sh -c "trap '' TERM HUP INT; echo up >&3; exec sleep 600.%s" &
done
read _ <&3
read _ <&3
rm up.$OPUS_JOB_ID
rmdir slot.$OPUS_SLOT
exit 0
"""


def processes_with(word):
    """Those whose command line has this word."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (place / "cmdline").read_bytes() and int(place.name) != os.getpid():
                found.append(place.name)
        except OSError:
            continue
    return found


def zombies_of(parents):
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(parent) in parents:
            found.append(place.name)
    return found


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.slow
def test_of_a_thousand_attempts_with_stubborn_grandchildren_nothing_is_left(build):
    house = build(f'max_concurrent = {SLOTS}\n[defaults]\ngrace = "50ms"\n')
    house.ended(house.sh("true"))
    daemon = house.process.pid
    [launcher] = children_of(daemon)
    files = {pid: open_files(pid) for pid in (daemon, launcher)}
    mark = str(daemon)
    spec = {"command": ["sh", "-c", STUBBORN % mark], "cwd": str(house.work)}
    for _ in range(ATTEMPTS // BATCH):
        batch = [one["job"]["id"] for one in house("job.submit_batch", jobs=[spec] * BATCH)["jobs"]]
        found = house("job.wait", ids=batch, timeout=100)
        assert found["done"]
        assert {job["status"] for job in found["jobs"]} == {"completed"}, [job["error"] for job in found["jobs"]]
    assert processes_with(f"sleep\0600.{mark}") == []
    status = house("queue.status")
    assert (status["pool"]["busy"], status["running"]) == (0, [])
    last = house.sh("echo $OPUS_SLOT")  # the launcher answers in order: by now it has reaped the others
    house.ended(last)
    assert house.logs(last) == "1\n"
    assert zombies_of({daemon, launcher}) == []
    assert children_of(daemon) == [launcher]
    assert all(open_files(pid) <= count + 2 for pid, count in files.items())


def test_the_number_of_a_slot_is_small_and_no_two_that_run_share_it_not_over_a_restart_either(build):
    house = build("max_concurrent = 4\n")
    gates = [house.gate(str(number)) for number in range(4)]

    def begin(gate):
        job = house.sh(f"echo slot $OPUS_SLOT.; read _ < {gate}")
        return job, house.output(job, ".").split()[1]

    first, second, third = (begin(gate) for gate in gates[:3])
    assert [slot for _, slot in (first, second, third)] == ["1.", "2.", "3."]
    gates[1].open()
    house.ended(second[0])
    house.kill()
    house.start()
    again = begin(gates[3])
    assert again[1] == "2."
    for gate in gates:
        gate.open()
    house.ended(first[0], third[0], again[0])
