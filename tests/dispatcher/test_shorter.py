"""A Job whose every field is as long as can be is still one that a line holds, several times over."""

import msgspec
import pytest
from msgspec.json import encode

from opusd.api import types as wire
from opusd.api.framing import LINE_LIMIT
from opusd.api.methods import METHODS
from opusd.core.job import Job
from opusd.core.lifecycle import Status
from opusd.dispatcher.answers import AnswerVerbs
from opusd.dispatcher.capacity import CapacityVerbs
from opusd.dispatcher.jobs import JobVerbs
from opusd.dispatcher.reads import ReadVerbs
from opusd.dispatcher.rooms import offer
from opusd.dispatcher.schedules import ScheduleVerbs
from opusd.dispatcher.shorter import shortened
from opusd.dispatcher.steering import SteeringVerbs
from opusd.dispatcher.views import Snapshot, view
from opusd.dispatcher.waits import Waits
from opusd.dispatcher.workers import WorkerVerbs
from opusd.testing.records import FULL_OUTCOME, FULL_SPEC, FULL_TERMS

LONG = "\x01" * 700_000
PLAIN = Job(id=1, status=Status.QUEUED, terms=FULL_TERMS, created_at=0, queued_at=0)


def shown(**fields):
    job = view(Snapshot(job=PLAIN), FULL_SPEC, FULL_OUTCOME)
    return msgspec.structs.replace(job, **fields)


def test_a_job_without_anything_long_loses_nothing():
    assert shortened(shown()) == shown(shortened=True)


def test_each_field_is_cut_for_itself_and_keeps_its_beginning():
    edges = [wire.Dependency(job=number, on="success", if_unmet="block", state="pending") for number in range(1000)]
    job = shortened(
        shown(
            prompt="a" * 40_000,
            command=["sh", "-c", LONG, "more"],
            env={"A": "b", "LONG": LONG, "C": "d"},
            payload={"deep": {"er": LONG}, "other": 1},
            dependents=list(range(100_000)),
            depends_on=edges,
            result=wire.Result(summary=LONG, data=[1, LONG]),
        )
    )
    assert job.prompt.startswith("aaaa")
    assert job.prompt.endswith("a…")
    assert job.command[:2] == ["sh", "-c"]
    assert (len(job.command), job.command[2][:1], job.command[2][-1]) == (3, "\x01", "…")
    assert (list(job.env), job.env["A"]) == (["A", "LONG"], "b")
    assert job.payload == {}
    assert job.dependents == list(range(len(job.dependents)))
    assert 100 < len(job.dependents) < 10_000
    assert job.depends_on == edges[: len(job.depends_on)]
    assert job.result.summary.endswith("…")
    assert job.result.data[0] == 1
    assert job.title == FULL_SPEC.title


def test_a_job_that_is_long_everywhere_fits_in_a_line():
    everything = {
        field.name: LONG
        if isinstance(value, str)
        else [LONG] * 3
        if isinstance(value, list)
        else {LONG: LONG, "a": LONG}
        for field in msgspec.structs.fields(wire.Job)
        if isinstance(value := getattr(shown(), field.name), str | list | dict)
    }
    cut = shortened(shown(**everything | {"reason": LONG}, result=wire.Result(summary=LONG, data={"a": LONG})))
    assert len(encode(cut)) < LINE_LIMIT // 2
    assert cut.id == 1


def shows_jobs(method):
    """Whether the method's result has a Job in it, however deep."""
    todo, seen = [msgspec.inspect.type_info(method.result)], set()
    while todo:
        found = todo.pop()
        match found:
            case msgspec.inspect.StructType(cls=wire.Job):
                return True
            case msgspec.inspect.StructType() if found.cls not in seen:
                seen.add(found.cls)
                todo += [field.type for field in found.fields]
            case msgspec.inspect.ListType():
                todo.append(found.item_type)
            case msgspec.inspect.UnionType():
                todo += found.types
    return False


@pytest.mark.parametrize("method", [method for method in METHODS.values() if shows_jobs(method)], ids=lambda m: m.name)
def test_every_call_that_shows_jobs_can_show_one_that_no_line_holds(method):
    rooms = offer([AnswerVerbs, CapacityVerbs, JobVerbs, ReadVerbs, ScheduleVerbs, SteeringVerbs, Waits, WorkerVerbs])
    assert hasattr(rooms, method.verb)
    assert hasattr(rooms, f"{method.verb}_shorter")
