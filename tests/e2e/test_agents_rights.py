"""What a job's agent may do, tried by real agents over the real socket (contract, section 8)."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from opus_client import Client
from opusd.api.methods import METHODS

CONFIG = """
max_concurrent = 8
max_depth = 2
max_children = 4
default_agent = "talker"
[agents.exec]
may_submit = ["exec", "talker"]
[agents.talker]
argv = [PYTHON, "-c", TALK, "{job_id}"]
stdin = "payload"
[agents.other]
argv = ["true"]
""".replace("PYTHON", json.dumps(sys.executable))

TALK = r"""
import json, os, socket, sys
calls = json.load(sys.stdin)["calls"]
own = int(sys.argv[1])
def fill(value):
    if isinstance(value, dict): return {name: fill(each) for name, each in value.items()}
    if isinstance(value, list): return [fill(each) for each in value]
    return own if value == "OWN" else os.environ.get("OPUS_TOKEN") if value == "TOKEN" else value
def talk():
    line = socket.socket(socket.AF_UNIX); line.connect(os.environ["OPUSD_SOCKET"]); file = line.makefile("rb")
    replies = []
    for number, (method, params) in enumerate(calls):
        call = {"jsonrpc": "2.0", "id": number, "method": method, "params": fill(params)}
        line.sendall(json.dumps(call).encode() + b"\n")
        while "method" in (reply := json.loads(file.readline())): pass  # an event comes in between
        replies.append(reply)
    with open(os.environ["OPUS_RESULT"], "w") as result: json.dump(replies, result)
talk()
"""

EMPTY = {"jobs": []}


@pytest.fixture(scope="module")
def hall(build_for_module):
    """A daemon whose agent `talker` makes the calls of its payload."""
    return build_for_module(CONFIG.replace("TALK", json.dumps(TALK)))


def talk(house, *calls, **fields):
    """The replies that an agent gets to these calls: results, or the words of refusals."""
    job = house.submit(agent="talker", payload={"calls": calls}, **fields)
    replies = house.ended(job)["result"]["data"]
    assert replies is not None, house.logs(job)
    return job, [reply["error"]["data"]["code"] if "error" in reply else reply["result"] for reply in replies]


# --- every method -------------------------------------------------------------------------------------

FORBIDDEN = {
    "job.update": {"title": "mine"},
    "job.hold": {},
    "job.release": {},
    "job.cancel": {},
    "job.answer": {"id": 1, "question": 1, "text": "yes"},
    "job.prune": None,
    "job.retry": None,
    "worktree.prune": {},
    "queue.pause": {},
    "queue.resume": {},
    "queue.drain": {},
    "pool.resize": {"max_concurrent": 1},
    "worker.claim": {"worker": "w"},
    "worker.complete": {"id": 1, "token": "x"},
    "worker.fail": {"id": 1, "token": "x", "error": {}},
    "worker.release": {"id": 1, "token": "x"},
    "schedule.add": {"name": "s", "cron": "@daily", "job": {"prompt": "x"}},
    "schedule.remove": {"name": "s"},
    "schedule.pause": {"name": "s"},
    "schedule.resume": {"name": "s"},
    "schedule.run": {"name": "s"},
    "notification.test": {"name": "desk"},
    "system.reload": {},
    "system.backup": {"path": "/nowhere/x"},
    "system.shutdown": {},
}
ALLOWED = {
    "job.submit": {"prompt": "x", "payload": {"calls": []}},
    "job.submit_batch": {"jobs": [{"prompt": "x", "payload": {"calls": []}}]},
    "job.get": {"id": "OWN"},
    "job.list": {},
    "job.wait": {"ids": ["OTHER"]},
    "job.logs": {"id": "OWN"},
    "job.history": {"id": "OWN"},
    "job.why": {"id": "OWN"},
    "worktree.list": {},
    "queue.status": {},
    "queue.peek": {},
    "queue.capacity": {},
    "agent.list": {},
    "notification.list": {},
    "schedule.list": {},
    "worker.list": {},
    "worker.heartbeat": {"id": "OWN", "token": "TOKEN"},
    "events.subscribe": {},
    "system.hello": {},
    "system.info": {},
    "system.ping": {},
    "rpc.discover": {},
}


def test_every_method_is_forbidden_or_allowed_to_an_agent_as_the_contract_says(hall):
    offered = set(hall("system.hello")["capabilities"])
    # To ask ends the attempt that asks, and its subscription ends with it.
    assert offered - {"events.unsubscribe", "worker.ask"} == FORBIDDEN.keys() | ALLOWED.keys()
    assert offered <= METHODS.keys()
    mine = hall.ended(hall.submit("false"))["id"]
    held = hall.submit("true", held=True)["id"]
    calls = []
    for method, params in FORBIDDEN.items():
        asked = {"ids": [mine]} if params is None else params
        if params in ({}, {"title": "mine"}) and method.startswith("job."):
            asked = {"id": held, **params}
        calls.append((method, asked))
    calls += [(f"job.{verb}", {"group": "g"}) for verb in ("hold", "release", "cancel")]
    _, refusals = talk(hall, *calls, group="g")
    assert dict(zip([method for method, _ in calls], refusals, strict=True)) == {m: "forbidden" for m, _ in calls}
    assert set(refusals) == {"forbidden"}
    calls = [(method, {"ids": [mine]} if method == "job.wait" else params) for method, params in ALLOWED.items()]
    _, replies = talk(hall, *calls)
    assert not [reply for reply in replies if isinstance(reply, str)], replies
    assert hall("queue.status")["paused"] is False
    assert hall.get(held)["status"] == "held"


def test_an_agent_steers_its_own_descendants_but_not_their_priority(hall):
    spec = {"prompt": "x", "payload": {"calls": []}, "held": True}
    job, replies = talk(hall, ("job.submit", {**spec, "key": "own-child"}),
                        ("job.update", {"id": "own-child", "title": "renamed"}),
                        ("job.update", {"id": "own-child", "priority": "urgent"}),
                        ("job.update", {"id": "own-child", "boost": 5}),
                        ("job.update", {"id": "own-child", "agent": "other"}),
                        ("job.release", {"id": "own-child"}),
                        ("job.hold", {"id": "own-child", "stop": True}),
                        ("job.cancel", {"id": "own-child", "grace": 0}),
                        ("job.update", {"id": "OWN", "title": "not itself"}),
                        ("job.cancel", {"id": "OWN"}))  # fmt: skip
    words = [reply if isinstance(reply, str) else reply.get("title") or reply["job"]["source"] for reply in replies]
    assert words[:5] == ["agent", "renamed", "forbidden", "forbidden", "forbidden"]
    assert "forbidden" not in words[5:8]
    assert words[8:] == ["forbidden", "forbidden"]
    child = hall.get("own-child")
    assert (child["parent"], child["root"], child["depth"]) == (job["id"], job["id"], 1)
    assert child["submitted_by"] == f"job:{job['id']}"


# --- who is an agent -------------------------------------------------------------------------------------

ASK = """
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1]); file = line.makefile('rb')
for method, params in (('queue.pause', {}), ('job.submit', {'command': ['true'], 'cwd': sys.argv[2]})):
    line.sendall(json.dumps(dict(jsonrpc='2.0', id=1, method=method, params=params)).encode() + b'\\n')
    print(file.readline().decode(), flush=True)
print('said all', flush=True)
"""
DOUBLE_FORK = """
import os, sys, time
if os.fork(): time.sleep(600)
os.setsid()
if os.fork(): os._exit(0)
"""


@pytest.mark.parametrize("how", ["plainly", "double-forked", "scrubbed", "double-forked and scrubbed"])
def test_an_agent_is_known_however_it_hides(hall, how):
    program = (DOUBLE_FORK if "double" in how else "") + ASK + "import signal; signal.pause()\n"  # until it is ended
    command = [sys.executable, "-c", program, str(hall.socket), str(hall.work)]
    if "scrubbed" in how:
        command = ["env", "-i", *command]
    job = hall.submit(*command)
    forbidden, submitted = map(json.loads, hall.output(job, "said all").split("\n\n")[:2])
    hall("job.cancel", id=job["id"], grace=0)
    assert forbidden["error"]["code"] == -32005
    child = submitted["result"]["job"]
    assert (child["source"], child["parent"]) == ("agent", job["id"])


def test_a_token_makes_its_bearer_that_jobs_agent_and_ends_with_the_attempt(hall):
    gate = hall.gate("token")
    job = hall.sh(f'echo "$OPUS_TOKEN"; {gate.wait}')
    token = hall.output(job, "\n").strip()
    assert len(token) == 32
    with Client(hall.socket, timeout=10) as client:
        client.call("system.hello", token=token)
        child = client.call("job.submit", command=["true"], cwd=str(hall.work))["job"]
        assert child["parent"] == job["id"]
    gate.open()
    hall.ended(job)
    gate.close()
    with Client(hall.socket, timeout=10) as client:
        client.call("system.hello", token=token)
        with pytest.raises(Exception, match="belongs to no running job"):
            client.call("job.submit", command=["true"])


def test_an_attempt_id_in_the_environment_lowers_rights_also_outside_the_attempts_tree(hall):
    gate = hall.gate("outside")
    job = hall.sh(f'echo "$OPUS_ATTEMPT_ID"; {gate.wait}')
    attempt_id = hall.output(job, "\n").strip()
    argv = [sys.executable, "-c", ASK, str(hall.socket), str(hall.work)]
    for said, parent in ((attempt_id, job["id"]), ("0" * 32, None)):
        env = {**os.environ, "OPUS_ATTEMPT_ID": said}
        ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        forbidden, submitted = map(json.loads, ran.stdout.split("\n\n")[:2])
        assert forbidden["error"]["code"] == -32005
        if parent is None:
            assert submitted["error"]["code"] == -32005
        else:
            assert submitted["result"]["job"]["parent"] == parent
    gate.open()
    hall.ended(job)
    gate.close()


def test_an_adopted_agent_is_still_known_after_a_restart(build):
    house = build(CONFIG.replace("TALK", json.dumps(TALK)))
    gate = house.gate()
    program = f"open({str(gate)!r}).readline()\n" + ASK
    job = house.submit("env", "-i", sys.executable, "-c", program, str(house.socket), str(house.work))
    house.begun(job)
    house.restart()
    gate.open()
    house.ended(job)
    gate.close()
    forbidden, submitted = map(json.loads, house.logs(job).split("\n\n")[:2])
    assert (forbidden["error"]["code"], submitted["result"]["job"]["parent"]) == (-32005, job["id"])


# --- what it may submit -----------------------------------------------------------------------------------


def test_an_agent_may_not_submit_what_is_for_people(hall):
    other = hall.submit("true", held=True)["id"]
    outside, inside = hall.folder / "outside", hall.work / "inside"
    outside.mkdir(exist_ok=True)
    inside.mkdir(exist_ok=True)
    link = hall.work / "link"
    link.symlink_to(outside)
    small = {"payload": {"calls": []}, "prompt": "x", "held": True}
    refused = [
        {"source": "user"},
        {"source": "automated"},
        {"interactive": True},
        {"priority": "critical"},
        {"priority": "critical", "source": "user"},
        {"parent": other},
        {"agent": "other"},
        {"env": {"A": "b"}},
        {"cwd": str(outside)},
        {"cwd": str(link)},
        {"cwd": f"{hall.work}/../outside"},
        {"cwd": "/"},
    ]
    calls = [("job.submit", {**small, **fields}) for fields in refused]
    calls.append(("job.submit", {"command": ["true"], "held": True}))
    _, replies = talk(hall, *calls, ("job.submit", {**small, "cwd": str(inside)}), ("job.submit", small),
                        ("job.submit", {**small, "parent": "OWN", "source": "agent"}))  # fmt: skip
    got = replies[: len(calls)]
    assert dict(zip(map(str, refused), got, strict=False)) == dict.fromkeys(map(str, refused), "forbidden")
    assert got[-1] == "forbidden"
    assert [reply["job"]["cwd"] for reply in replies[-3:]] == [str(inside), str(hall.work), str(hall.work)]


def test_an_agent_whose_may_submit_lists_exec_may_submit_commands_and_env(hall):
    program = ASK.replace("{'command': ['true'], ", "{'command': ['true'], 'env': {'A': 'b'}, ")
    job = hall.submit(sys.executable, "-c", program, str(hall.socket), str(hall.work))
    hall.ended(job)
    assert json.loads(hall.logs(job).split("\n\n")[1])["result"]["job"]["env"] == {"A": "b"}


def test_too_deep_and_too_many_are_quotas(hall):
    small = {"payload": {"calls": []}, "prompt": "x", "held": True}
    _, replies = talk(hall, *[("job.submit", small)] * 5)
    assert [reply if isinstance(reply, str) else "ok" for reply in replies] == ["ok"] * 4 + ["quota_exceeded"]
    _, (batch,) = talk(hall, ("job.submit_batch", {"jobs": [small] * 5}))
    assert batch == "quota_exceeded"
    third = {"calls": [["job.submit", small]]}
    second = {"calls": [["job.submit", {"payload": third, "prompt": "x", "key": "third"}]]}
    talk(hall, ("job.submit", {"payload": second, "prompt": "x", "key": "second"}))
    hall.ended("second")
    deepest = hall.ended("third")
    assert deepest["depth"] == 2
    assert deepest["result"]["data"][0]["error"]["data"]["quota"] == "max_depth"


# --- waiting for children ------------------------------------------------------------------------------------


def test_agents_that_wait_for_their_children_never_fill_the_pool(build):
    house = build("max_concurrent = 1\nmax_depth = 3\n[agents.exec]\nmay_submit = ['exec']\n")
    program = """
import json, os, socket, sys
left = int(sys.argv[1])
if left:
    line = socket.socket(socket.AF_UNIX); line.connect(os.environ['OPUSD_SOCKET']); file = line.makefile('rb')
    def call(method, **params):
        line.sendall(json.dumps(dict(jsonrpc='2.0', id=1, method=method, params=params)).encode() + b'\\n')
        return json.loads(file.readline())['result']
    child = call('job.submit', command=[sys.executable, '-c', sys.argv[2], str(left - 1), sys.argv[2]])['job']
    done = call('job.wait', ids=[child['id']])
    print(left, done['jobs'][0]['status'])
print('end', left)
"""
    top = house.submit(sys.executable, "-c", program, "3", program)
    assert house.ended(top)["status"] == "completed"
    assert house.logs(top) == "3 completed\nend 3\n"
    jobs = house("job.list", order="id")["jobs"]
    assert [(job["status"], job["depth"]) for job in jobs] == [("completed", depth) for depth in range(4)]


def test_agents_that_wait_three_deep_in_a_pool_of_one_come_through_a_daemon_that_is_killed(build):
    house = build("max_concurrent = 1\nmax_depth = 3\n[agents.exec]\nslots = 1\nmay_submit = ['exec']\n")
    gate = house.gate()
    submit = f"{sys.executable} -m opusctl submit --wait -q --"
    deepest = house.work / "deepest"
    deepest.write_text(f"{gate.wait}\n")
    for name, child in (("third", "deepest"), ("second", "third"), ("first", "second")):
        (house.work / name).write_text(f"{submit} sh {house.work / child}\n")
    top = house.sh(f"exec sh {house.work / 'first'}")
    house.until(lambda: len(house("job.list", status="running")["jobs"]) == 4)
    house.restart()
    gate.open()
    assert house.ended(top)["status"] == "completed"
    assert {job["status"] for job in house("job.list")["jobs"]} == {"completed"}


def test_a_child_that_was_queued_when_the_daemon_died_gets_its_parents_slot_when_that_waits_again(build):
    house = build("max_concurrent = 1\n[agents.exec]\nslots = 1\nmay_submit = ['exec']\n")
    gate = house.gate()
    top = house.sh(f"{gate.wait}; {sys.executable} -m opusctl submit --wait -q -- true")
    house.begun(top)
    house("queue.pause")
    gate.open()
    house.until(lambda: house("job.list", status="queued")["jobs"])
    house.restart()
    house("queue.resume")
    assert house.ended(top)["status"] == "completed"


def test_a_wait_that_can_not_end_is_a_conflict(hall):
    small = {"payload": {"calls": []}, "prompt": "x"}
    _, replies = talk(hall,
        ("job.wait", {"ids": ["OWN"]}),
        ("job.submit", {**small, "depends_on": ["OWN"], "key": "after-me"}),
        ("job.wait", {"ids": ["after-me"]}),
        ("job.submit", {**small, "needs": {"lock": 1}, "key": "needs-mine"}),
        ("job.wait", {"ids": ["needs-mine"]}),
        ("job.wait", {"ids": ["needs-mine"], "timeout": 0}),
        needs={"lock": 1},
    )  # fmt: skip
    assert [replies[index] for index in (0, 2, 4)] == ["conflict"] * 3
    assert hall.ended("after-me", "needs-mine")


# --- environment and tokens ------------------------------------------------------------------------------------


def test_the_environment_of_an_attempt_is_exactly_the_contracts(build):
    secret = {"SOME_OTHER": "x", "ANTHROPIC_X": "passed", "LC_ALL": "C.UTF-8", "TZ": "UTC", "LD_DEBUG_OUTPUT": "/x",
              "NOTIFY_SOCKET": "/x", "XDG_DATA_HOME": "/data", "FROM_DAEMON": "fd"}  # fmt: skip
    config = "[agents.exec]\nenv_pass = ['ANTHROPIC_*']\nenv = { MINE = 'agent', BOTH = 'agent' }\n"
    house = build(config, env=secret)
    (house.work / "value").write_text("from the file\n")
    job = house.submit("env", "-0", env={
        "BOTH": "job", "JOBS": "own", "DAEMONS": {"from_env": "FROM_DAEMON"},
        "FILES_TOKEN": {"from_file": str(house.work / "value")},
    })  # fmt: skip
    house.ended(job)
    seen = dict(line.split("=", 1) for line in house.logs(job).split("\0") if line)
    names = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TZ", "TMPDIR", "SSH_AUTH_SOCK"}
    base = {name for name in house.env if name in names or name.startswith(("LC_", "XDG_"))}
    own = {"OPUSD_SOCKET", "OPUS_JOB_ID", "OPUS_ATTEMPT", "OPUS_ATTEMPT_ID", "OPUS_SLOT", "OPUS_TOKEN", "OPUS_RESULT"}
    assert seen.keys() == base | own | {"ANTHROPIC_X", "MINE", "BOTH", "JOBS", "DAEMONS", "FILES_TOKEN"}
    assert (seen["BOTH"], seen["DAEMONS"], seen["FILES_TOKEN"]) == ("job", "fd", "from the file")
    assert (seen["OPUS_JOB_ID"], seen["OPUS_ATTEMPT"], seen["OPUS_SLOT"]) == (str(job["id"]), "1", "1")
    assert seen["OPUSD_SOCKET"] == str(house.socket)
    for name in ("LD_PRELOAD", "OPUS_TOKEN", "OPUSD_SOCKET"):
        assert house.refused("job.submit", command=["true"], env={name: "x"}).data["path"] == f"$.env.{name}"
    assert house.refused("job.submit", command=["true"], env={"MY_API_KEY": "x"}).code == -32602
    missing = house.ended(house.submit("true", env={"X": {"from_env": "NOT_THERE"}}))
    assert (missing["status"], missing["error"]["class"]) == ("failed", "config")


def argvs():
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it is over
            yield process.read_bytes()


def test_a_token_is_in_no_job_event_log_line_argv_or_file(build):
    house = build(arguments=["--log-level", "debug"])
    gate = house.gate()
    job = house.sh(f"echo $OPUS_TOKEN > told; echo ready; {gate.wait}")
    house.output(job, "ready")
    token = (house.work / "told").read_text().strip()
    assert len(token) == 32
    assert not any(token.encode() in argv for argv in argvs())
    gate.open()
    house.ended(job)
    gate.close()
    events = []
    for event in house.client().events(since=0):
        events.append(event)
        if event["kind"] == "job.completed":
            break
    shown = [house.get(job), house("job.list", full=True), house("job.history", id=job["id"]), events]
    assert token not in json.dumps(shown)
    house.stop()
    assert token not in house.said()
    assert not [path for path in house.state.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
