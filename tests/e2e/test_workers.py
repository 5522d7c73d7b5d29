"""Workers: leases, fencing tokens, waiting claims, and what becomes of those that die, sleep or come back."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from opus_client import Client, RpcError


def claim(house, worker="w1", **fields):
    return house("worker.claim", worker=worker, **fields)["claims"]


def work(house, **fields):
    return house("job.submit", **{"prompt": "do it", "agent": "pull", "cwd": str(house.work), **fields})["job"]


def refused(house, method, **fields):
    return house.refused(method, **fields).data["code"]


@pytest.fixture
def pulling(build):
    return build("[agents.gpu]\nslots = 0\n")


# --- claiming ---------------------------------------------------------------------------------------


def test_a_job_is_claimed_kept_and_completed_with_its_result(pulling):
    job = work(pulling, payload={"n": 1}, labels=["for:ann"])
    assert "waits for a worker" in pulling.get(job)["reason"]
    [held] = claim(pulling, lease="30s")
    assert (held["job"]["id"], held["job"]["payload"], held["attempt"]) == (job["id"], {"n": 1}, 1)
    running = pulling.get(job)
    assert (running["status"], running["worker"]) == ("running", "w1")
    token = {"id": job["id"], "token": held["token"]}
    beat = pulling("worker.heartbeat", **token, progress={"fraction": 0.5, "message": "half"})
    assert (beat["expires_at"] >= held["expires_at"], beat["cancel"]) == (True, False)
    assert pulling.get(job)["progress"] == {"fraction": 0.5, "message": "half"}
    done = pulling("worker.complete", **token, result={"summary": "all well", "data": [1]})
    assert (done["job"]["status"], done["job"]["result"]) == ("completed", {"summary": "all well", "data": [1]})
    assert refused(pulling, "worker.complete", **token) == "lease_lost"
    [attempt] = pulling("job.history", id=job["id"])["attempts"]
    assert (attempt["worker"], attempt["class"]) == ("w1", None)


def test_a_worker_that_waits_is_shown_a_new_job_as_the_registry_has_it(pulling):
    got = []
    client = pulling.client()
    waiting = threading.Thread(
        target=lambda: got.extend(client.call("worker.claim", worker="patient", wait=30)["claims"]), daemon=True
    )
    waiting.start()
    pulling.until_workers("patient")
    job = work(pulling, payload={"n": [1]}, metadata={"a": "b"}, labels=["x"], env={"A": "1"}, verify=["true"])
    waiting.join(10)
    [held] = got
    assert held["job"] == pulling.get(job["id"])
    assert held["job"]["prompt"] == "do it"


def test_claims_come_in_the_order_of_dispatch_and_respect_what_holds_jobs_back(pulling):
    low, urgent, normal = (work(pulling, priority=tier)["id"] for tier in ("low", "urgent", "normal"))
    with_need = work(pulling, priority="urgent", boost=9, needs={"lock": 1})["id"]
    assert [one["job"]["id"] for one in claim(pulling, count=2)] == [with_need, urgent]
    other = work(pulling, priority="urgent", needs={"lock": 1})["id"]
    pulling("queue.pause", agent="pull")
    assert claim(pulling) == []
    pulling("queue.resume", agent="pull")
    assert [one["job"]["id"] for one in claim(pulling, count=9)] == [normal, low]
    assert "lock" in pulling.get(other)["reason"]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"agents": ["gpu"]}, "g"),
        ({"types": ["bug", "review"]}, "br"),
        ({"labels": ["for:ann", "for:bob"]}, "al"),
        ({"group": "night"}, "n"),
        ({"min_tier": "urgent"}, "u"),
        ({"min_tier": "urgent", "types": ["bug"]}, ""),
    ],
)
def test_a_claim_takes_only_what_it_asks_for(pulling, wanted, names):
    jobs = {
        work(pulling, **fields)["id"]: name
        for name, fields in {
            "g": {"agent": "gpu"},
            "b": {"type": "bug"},
            "r": {"type": "review"},
            "a": {"labels": ["for:ann", "x"]},
            "l": {"labels": ["y"]},
            "n": {"group": "night"},
            "u": {"priority": "urgent"},
        }.items()
    }
    labelled = next(number for number, name in jobs.items() if name == "l")
    pulling("job.update", id=labelled, labels=["for:bob"])
    pulling.restart()
    assert "".join(sorted(jobs[one["job"]["id"]] for one in claim(pulling, count=9, **wanted))) == "".join(
        sorted(names)
    )


def test_a_claim_that_waits_gets_the_job_that_comes_and_the_first_in_line_goes_first(pulling):
    got = {}

    def wait(name, client):
        got[name] = client.call("worker.claim", worker=name, wait=10)["claims"]

    threads = []
    for name in ("first", "second"):
        threads.append(threading.Thread(target=wait, args=(name, pulling.client())))
        threads[-1].start()
        pulling.until_workers(name)
    jobs = []
    for number in (0, 1):
        jobs.append(work(pulling)["id"])
        threads[number].join(10)
    assert [got[name][0]["job"]["id"] for name in ("first", "second")] == jobs
    assert claim(pulling, wait=0.05) == []


def test_a_claim_that_asks_for_no_answer_keeps_no_job(pulling):
    job, next_job = work(pulling), work(pulling)
    client = pulling.client()
    client.notify("worker.claim", worker="mute")
    pulling.until(lambda: pulling.get(job)["attempts"] == 1 and pulling.get(job)["status"] == "queued")
    [held] = claim(pulling)
    assert held["job"]["id"] == job["id"]
    token = {"id": job["id"], "token": held["token"]}
    client.notify("worker.complete", **token, result=1, claim={"worker": "mute"})
    assert pulling.ended(job)["status"] == "completed"
    pulling.until(lambda: pulling.get(next_job)["attempts"] == 1 and pulling.get(next_job)["status"] == "queued")


def test_a_waiting_claim_whose_connection_ends_keeps_no_job(pulling):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(pulling.socket))
        call = {"jsonrpc": "2.0", "id": 1, "method": "worker.claim", "params": {"worker": "gone", "wait": 10}}
        line.sendall(json.dumps(call).encode() + b"\n")
        pulling.until_workers("gone")
    job = work(pulling)  # the daemon may not have heard yet that the connection is gone
    assert [one["job"]["id"] for one in claim(pulling, wait=5)] == [job["id"]]
    assert pulling.get(job)["retries"] == 0


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"agents": ["exec"]}, "$.agents"),
        ({"agents": ["nobody"]}, "$.agents"),
        ({"lease": 0.5}, "$.lease"),
        ({"lease": "2d"}, "$.lease"),
        ({"count": 0}, "$.count"),
        ({"wait": -1}, "$.wait"),
        ({"worker": ""}, "$.worker"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused_by_the_field(pulling, fields, path):
    error = pulling.refused("worker.claim", **{"worker": "w", **fields})
    assert (error.data["code"], error.data["path"]) == ("invalid_params", path)


# --- the end ----------------------------------------------------------------------------------------


def test_a_failure_is_retried_by_policy_and_complete_takes_the_next_at_once(pulling):
    one, two = work(pulling, retry="fast"), work(pulling)
    [held] = claim(pulling)
    token = {"id": held["job"]["id"], "token": held["token"]}
    failed = pulling("worker.fail", **token, error={"class": "timeout", "message": "too slow"}, claim={"worker": "w1"})
    assert (failed["job"]["id"], failed["job"]["status"], failed["job"]["retries"]) == (one["id"], "retrying", 1)
    [held] = failed["claims"]
    assert held["job"]["id"] == two["id"]
    done = pulling(
        "worker.complete", id=two["id"], token=held["token"], result="plain", claim={"worker": "w1", "count": 5}
    )
    assert done["job"]["result"] == {"summary": None, "data": "plain"}
    again = done["claims"] or claim(pulling, wait=5)
    assert [(held["job"]["id"], held["attempt"]) for held in again] == [(one["id"], 2)]


def test_a_rate_limit_cools_the_agent_down_and_spends_no_retry(pulling):
    work(pulling)
    [held] = claim(pulling)
    error = {"class": "rate_limited", "message": "429", "until": "2099-01-01T00:00:00Z"}
    failed = pulling("worker.fail", id=held["job"]["id"], token=held["token"], error=error)["job"]
    assert (failed["status"], failed["retries"]) == ("queued", 0)
    assert claim(pulling) == []
    assert "cools down" in failed["reason"]
    pulling("queue.resume", agent="pull")
    assert len(claim(pulling)) == 1


def test_a_released_job_stands_where_it_stood(pulling):
    one, _ = work(pulling), work(pulling)
    [held] = claim(pulling)
    back = pulling("worker.release", id=one["id"], token=held["token"])
    assert (back["status"], back["position"], back["retries"]) == ("queued", 1, 0)
    assert refused(pulling, "worker.heartbeat", id=one["id"], token=held["token"]) == "lease_lost"
    [again] = claim(pulling)
    assert (again["job"]["id"], again["attempt"]) == (one["id"], 2)
    assert refused(pulling, "worker.complete", id=one["id"], token=held["token"]) == "lease_lost"


def test_a_worker_may_ask_and_the_answer_comes_with_the_next_claim(pulling):
    job = work(pulling)
    [held] = claim(pulling)
    asked = pulling("worker.ask", id=job["id"], token=held["token"], text="Which?", options=["a", "b"])
    assert (asked["status"], asked["question"]["text"]) == ("needs_input", "Which?")
    assert claim(pulling) == []
    pulling("job.answer", id=job["id"], question=asked["question"]["id"], text="a")
    assert [one["attempt"] for one in claim(pulling)] == [2]


def test_a_cancelled_job_tells_its_worker_and_ends_as_that_reports(pulling):
    job = work(pulling)
    [held] = claim(pulling)
    assert pulling("job.cancel", id=job["id"])["status"] == "cancelling"
    beat = pulling("worker.heartbeat", id=job["id"], token=held["token"])
    assert (beat["cancel"], beat["expires_at"]) == (True, held["expires_at"])  # no longer renewed
    ended = pulling("worker.fail", id=job["id"], token=held["token"], error={"class": "agent_error"})["job"]
    assert ended["status"] == "cancelled"


def test_a_worker_that_was_told_to_cancel_fails_as_cancelled_and_the_job_ends_as_was_asked(pulling):
    cancelled, stopped, late = work(pulling), work(pulling), work(pulling, timeout=0.2, max_retries=0)
    tokens = {held["job"]["id"]: held["token"] for held in claim(pulling, count=3)}

    def fail(job):
        error = {"class": "cancelled", "message": "as you wish"}
        return pulling("worker.fail", id=job["id"], token=tokens[job["id"]], error=error)["job"]

    pulling("job.cancel", id=cancelled["id"], reason="not needed")
    ended = fail(cancelled)
    assert (ended["status"], ended["error"]["class"], ended["error"]["message"]) == (
        "cancelled", "cancelled", "not needed",
    )  # fmt: skip
    pulling("job.hold", id=stopped["id"], stop=True)
    assert fail(stopped)["status"] == "held"
    pulling.until(lambda: pulling("worker.heartbeat", id=late["id"], token=tokens[late["id"]])["cancel"] or None)
    ended = fail(late)
    assert (ended["status"], ended["error"]["class"]) == ("failed", "timeout")


def test_nobody_fails_as_cancelled_of_whom_no_cancel_is_wanted(pulling):
    job = work(pulling)
    [held] = claim(pulling)
    call = {"id": job["id"], "token": held["token"]}
    error = pulling.refused("worker.fail", **call, error={"class": "cancelled"}, claim={"worker": "w1"})
    assert (error.data["code"], error.data["path"]) == ("invalid_params", "$.error.class")
    assert "nobody asked to end the attempt" in error.message
    assert pulling.get(job)["status"] == "running"
    assert pulling.refused("worker.fail", **call, error={"class": "tired"}).data["path"] == "$.error.class"
    stale = pulling.refused("worker.fail", id=job["id"], token="0" * 32, error={"class": "cancelled"})
    assert stale.data["code"] == "lease_lost"
    assert pulling("worker.complete", **call)["job"]["status"] == "completed"


@pytest.mark.slow
def test_three_lost_leases_fail_a_job(pulling):
    job = work(pulling)
    for number in (1, 2, 3):
        [held] = claim(pulling, lease=1, wait=5)
        assert held["attempt"] == number
        pulling.until(lambda: pulling.get(job)["status"] != "running")
    failed = pulling.get(job)
    assert (failed["status"], failed["error"]["class"]) == ("failed", "lost")
    assert "the lease of worker w1 ended" in failed["error"]["message"]


@pytest.mark.slow
def test_a_job_that_ran_out_of_time_is_timed_out_when_its_worker_is_gone(pulling):
    job = work(pulling, timeout=0.2, max_retries=0)
    [held] = claim(pulling, lease=1)
    pulling.until(lambda: pulling("worker.heartbeat", id=job["id"], token=held["token"])["cancel"] or None)
    ended = pulling.ended(job)
    assert (ended["status"], ended["error"]["class"]) == ("failed", "timeout")


# --- crashes ----------------------------------------------------------------------------------------


def test_leases_and_tokens_outlive_the_daemon(pulling):
    job = work(pulling)
    [held] = claim(pulling)
    pulling.restart()
    assert claim(pulling) == []
    assert refused(pulling, "worker.complete", id=job["id"], token="0" * 32) == "lease_lost"
    token = {"id": job["id"], "token": held["token"]}
    assert pulling("worker.heartbeat", **token)["expires_at"] >= held["expires_at"]
    assert pulling("worker.complete", **token)["job"]["status"] == "completed"
    pulling.restart()
    assert refused(pulling, "worker.complete", **token) == "lease_lost"


@pytest.mark.parametrize("agents", ["stop", "drain", "leave"])
def test_a_shutdown_leaves_workers_their_jobs(agents, pulling):
    job = work(pulling)
    [held] = claim(pulling)
    pulling.client().call("system.shutdown", agents=agents)
    assert pulling.process.wait(10) == 0
    pulling.restart()
    token = {"id": job["id"], "token": held["token"]}
    assert pulling("worker.heartbeat", **token)["cancel"] is False
    assert pulling("worker.complete", **token)["job"]["status"] == "completed"


WORKER = """
import sys, time
from opus_client import Client
client = Client(sys.argv[1]).connect()
[held] = client.call("worker.claim", worker="sleeper", lease=1, wait=10)["claims"]
print("held", flush=True)
sys.stdin.readline()
try:
    client.call("worker.complete", id=held["job"]["id"], token=held["token"], result="late")
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.mark.slow
def test_a_stopped_worker_that_wakes_after_its_lease_changes_nothing(pulling):
    job = work(pulling)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(pulling.socket)], env=pulling.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with worker:
        assert worker.stdout.readline() == "held\n"
        worker.send_signal(signal.SIGSTOP)
        [held] = claim(pulling, worker="other", wait=10)
        assert (held["job"]["id"], held["attempt"]) == (job["id"], 2)
        worker.send_signal(signal.SIGCONT)
        worker.stdin.write("\n")
        worker.stdin.flush()
        assert "RpcError" in worker.stdout.readline()
    running = pulling.get(job)
    assert (running["status"], running["worker"], running["result"]) == ("running", "other", None)
    done = pulling("worker.complete", id=job["id"], token=held["token"], result="in time")["job"]
    assert done["result"]["data"] == "in time"


@pytest.mark.slow
def test_two_workers_do_five_hundred_jobs_each_once_though_the_daemon_is_killed(pulling):
    specs = [{"prompt": str(number), "agent": "pull", "key": f"j{number}"} for number in range(500)]
    pulling("job.submit_batch", jobs=specs)
    done, there = [], threading.Event()
    there.set()

    def run(name):
        client, held = Client(pulling.socket).connect(), None
        while True:
            try:
                if held is None:
                    claims = client.call("worker.claim", worker=name, wait=0.5)["claims"]
                    if not claims:
                        break
                    [held] = claims
                token = {"id": held["job"]["id"], "token": held["token"]}
                reply = client.call("worker.complete", **token, claim={"worker": name})
                done.append(held["job"]["id"])
                held = next(iter(reply["claims"]), None)
            except RpcError as error:
                assert error.data["code"] in ("lease_lost", "shutting_down"), error
                held = None
            except OSError:
                client.close()
                assert there.wait(20)
                client = Client(pulling.socket).connect()
        client.close()

    threads = [threading.Thread(target=run, args=(f"w{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for target in (100, 250):
        pulling.until(lambda target=target: len(done) >= target)
        there.clear()
        pulling.kill()
        pulling.start()
        there.set()
    for thread in threads:
        thread.join(60)
    jobs = pulling("job.list", limit=1000)["jobs"]
    completed = {job["id"] for job in jobs if job["status"] == "completed"}
    assert len(jobs) == 500
    assert len(done) == len(set(done))
    assert set(done) <= completed
    # A claim whose answer was lost with the daemon is held until its lease ends.
    assert {job["status"] for job in jobs if job["id"] not in completed} <= {"running"}
    assert len(completed) >= 496
    assert all(job["attempts"] == 1 for job in jobs)


# --- rights -----------------------------------------------------------------------------------------

CHILD = """
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1])
def call(number, method, **params):
    line.sendall(json.dumps(dict(jsonrpc='2.0', id=number, method=method, params=params)).encode() + b'\\n')
file = line.makefile('rb')
call(1, 'job.submit', prompt='x', agent='pull', source='user', interactive=True)
print(json.loads(file.readline()).get('error', {}).get('data', {}).get('code'), flush=True)
call(2, 'worker.claim', worker='child')
print(json.loads(file.readline()).get('error', {}).get('data', {}).get('code'), flush=True)
"""
DOUBLE_FORK = """
import os, subprocess, sys
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(read)
        os.dup2(write, 1)
        os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], sys.argv[1]])
    os._exit(0)
os.close(write)
sys.stdout.write(os.fdopen(read).read())
"""


def test_what_a_worker_starts_is_its_jobs_agent_and_speaks_for_no_human(pulling):
    work(pulling)
    claim(pulling, worker="this test")  # so that this process holds a lease
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OPUS")}
    told = {**plain, "OPUS_ATTEMPT_ID": "1-1"}  # what opusctl's workers give to what they start
    for arguments, env in (([CHILD], plain), ([DOUBLE_FORK, CHILD], told)):
        argv = [sys.executable, "-c", arguments[0], str(pulling.socket), *arguments[1:]]
        said = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=20).stdout
        assert said.split() == ["forbidden", "forbidden"]
    assert pulling("job.submit", prompt="mine", agent="pull", interactive=True)["job"]["source"] == "user"


def test_a_pushed_agent_may_ask_for_itself_and_not_end_its_attempt(build):
    house = build('default_agent = "bot"\n[agents.bot]\nargv = ["sh"]\nenv_pass = ["PYTHONPATH"]\n')
    ask = f"{sys.executable} -m opusctl ask 'Which one?' --option a --option b"
    job = house("job.submit", prompt=f"{ask}; sleep 60", cwd=str(house.work))["job"]
    house.until(lambda: house.get(job)["status"] == "needs_input")
    assert house.get(job)["question"]["options"] == ["a", "b"]
    gate = house.gate()
    other = house.sh(f"echo $OPUS_TOKEN; {gate.wait}")
    token = house.output(other, "\n").strip()
    for method in ("worker.complete", "worker.release"):
        assert refused(house, method, id=other["id"], token=token) == "forbidden"
    gate.open()
    assert json.dumps(house.ended(other)["status"]) == '"completed"'
