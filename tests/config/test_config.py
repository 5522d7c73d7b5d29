import gc
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opusd.config import Config, ConfigError, load, parse
from opusd.core.job import Tier
from opusd.core.limits import UNLIMITED, Quota
from opusd.core.retry import PRESETS, FailureClass, Policy, Strategy

CLAUDE: dict[str, Any] = {"argv": ["claude", "-p"]}


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(data)
    assert refused.value.exit_code == 78
    return str(refused.value)


def agents(**tables: Any) -> dict[str, Any]:
    return {"agents": tables}


# -------------------------------------------------------------------------------------------------- what is read


def test_without_a_file_there_are_the_defaults_and_the_agents_exec_and_pull() -> None:
    config = parse({})
    assert (config.max_concurrent, config.interactive_slots, config.max_queued) == (3, 1, 2_000_000)
    assert (config.max_depth, config.max_children, config.default_agent) == (3, 50, None)
    assert config.order.reserve_after == 600_000_000
    assert (config.defaults.expires_in, config.defaults.timeout, config.defaults.grace) == (None, None, 10_000_000)
    assert list(config.agents) == ["exec", "pull"]
    assert config.agents["exec"].retry == PRESETS["none"]
    assert (config.limits().agents["exec"].slots, config.limits().agents["pull"].slots) == (UNLIMITED, 0)
    assert (config.limits().agents["exec"].starts, config.limits().agents["pull"].starts) == (True, False)
    assert config.agents["pull"].may_submit == ("pull",)
    assert (config.output.head, config.output.tail) == (8 << 20, 56 << 20)


def test_the_longest_wait_is_the_contract_s_bound() -> None:
    assert parse({}).longest_wait_hours() == pytest.approx((200 + 98) / 25)
    assert parse({"order": {"rate": 50, "low": -100}}).longest_wait_hours() == pytest.approx((300 + 98) / 50)


def test_an_agent_without_slots_follows_the_pool_however_it_is_resized() -> None:
    config = parse({"max_concurrent": 4, **agents(claude=CLAUDE, codex={"argv": ["codex"], "slots": 1})})
    slots = [config.limits().agents[name].slots for name in ("claude", "codex", "exec", "pull")]
    assert slots == [UNLIMITED, 1, UNLIMITED, 0]


def test_auto_is_what_the_machine_bears_and_says_so() -> None:
    config = parse({"max_concurrent": "auto"}, pool=2)
    assert (config.max_concurrent, config.automatic) == (2, True)
    assert not parse({}, pool=2).automatic


def test_the_core_gets_every_limit_of_the_file() -> None:
    limits = parse(
        {
            "default_agent": "claude",
            "max_queued": 7,
            "max_depth": 1,
            "max_children": 2,
            "interactive_slots": 0,
            "order": {"rate": 5, "reserve_after": "1m"},
            "defaults": {"expires_in": "1d", "timeout": "2h", "grace": 3},
            "resources": {"gpu": 2, "repo:/srv/app": 0},
            "groups": {"nightly": {"max_running": 1}},
            "quotas": {"submitter": {"max_queued": 5}, "source": {"agent": {"max_running": 2, "max_queued": "off"}}},
            "max_submissions_per_minute": "off",
            "min_free_memory": "512MiB",
            **agents(claude=CLAUDE | {"needs": {"gpu": 2}, "max_queued": 9, "timeout": "5m", "may_submit": ["exec"]}),
        }
    ).limits()
    assert (limits.max_queued, limits.max_depth, limits.max_children, limits.interactive_slots) == (7, 1, 2, 0)
    assert (limits.points.rate, limits.reserve_after, limits.grace) == (5, 60_000_000, 3_000_000)
    assert (limits.expires_in, limits.timeout) == (86_400_000_000, 7_200_000_000)
    assert limits.capacities == {"gpu": 2, "repo:/srv/app": 0}
    assert limits.submitter == Quota(max_queued=5)
    assert limits.sources == {"agent": Quota(max_running=2)}
    assert limits.max_submissions_per_minute is None
    assert (limits.min_free_memory, limits.min_free_disk) == (512 << 20, "auto")
    assert parse({"min_free_disk": "off"}).limits().min_free_disk is None
    assert parse({"min_free_disk": "1GiB"}).limits().min_free_disk == 1 << 30
    assert limits.groups == {"nightly": Quota(max_running=1)}
    assert limits.default_agent == "claude"
    claude = limits.agents["claude"]
    assert (claude.needs, claude.max_queued, claude.timeout) == ((("gpu", 2),), 9, 300_000_000)
    assert claude.may_submit == ("exec",)
    assert limits.agents["exec"].max_queued == UNLIMITED


def test_built_in_agents_take_other_keys_and_keep_their_own_defaults() -> None:
    config = parse(agents(exec={"slots": 9, "env_pass": ["CI_*"]}, pull={"retry": "slow"}))
    assert config.agents["exec"].retry == PRESETS["none"]
    assert (config.limits().agents["exec"].slots, config.agents["exec"].env_pass) == (9, ("CI_*",))
    assert config.agents["pull"].retry == PRESETS["slow"]


def test_routes_keep_their_order_their_names_and_their_priority() -> None:
    config = parse(
        {
            "routes": [
                {"agent": "claude", "match": {"type": "bug", "label": "for:ann"}, "priority": 9},
                {"agent": "pull", "name": "rest", "priority": "high"},
                {"agent": "claude", "match": {"source": "user"}, "priority": "critical"},
            ],
            **agents(claude=CLAUDE),
        }
    )
    assert [route.name for route in config.routes] == ["route 1", "rest", "route 3"]
    assert [route.priority for route in config.routes] == [(Tier.URGENT, 16), (Tier.URGENT, 0), (Tier.CRITICAL, 0)]
    assert (config.routes[0].type, config.routes[0].label, config.routes[0].group) == ("bug", "for:ann", None)


def test_a_policy_fills_up_from_the_preset_of_its_name_else_from_default() -> None:
    config = parse(
        {
            "retry": {"slow": {"max_retries": 1}, "mine": {"strategy": "linear", "base": "2s", "on": ["timeout"]}},
            **agents(
                a=CLAUDE | {"retry": "mine"},
                b=CLAUDE | {"retry": {"strategy": "immediate"}, "max_retries": 8},
                c=CLAUDE,
            ),
        }
    )
    assert config.retry["slow"] == Policy(Strategy.FIBONACCI, 60_000_000, 3_600_000_000, 0.1, 1)
    mine = Policy(Strategy.LINEAR, 2_000_000, 300_000_000, 0.1, 3, (FailureClass.TIMEOUT,))
    assert config.retry["mine"] == config.agents["a"].retry == mine
    assert config.agents["b"].retry == Policy(Strategy.IMMEDIATE, 1_000_000, 300_000_000, 0.1, 8)
    assert config.agents["c"].retry == config.retry["default"] == PRESETS["default"]


def test_durations_may_be_off_where_there_may_be_none() -> None:
    assert parse({"retention": {"finished": "off", "history": "off"}}).retention.finished is None
    assert "not a duration" in refusal({"defaults": {"grace": "off"}})


def test_parsing_leaves_no_broken_object_for_the_collector() -> None:
    for _ in range(20):
        parse(agents(claude=CLAUDE | {"retry": "fast", "env": {"A": "b"}}) | {"routes": [{"agent": "claude"}]})
    gc.collect()


# ----------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"max_concurent": 3},
            "max_concurent: the top level has no key 'max_concurent'; the nearest is 'max_concurrent'",
        ),
        ({"order": {"rat": 1}}, "order.rat: [order] has no key 'rat'; the nearest is 'rate'"),
        ({"output": {"reserve_after": 1}}, "[output] has no key 'reserve_after'; there is order.reserve_after"),
        ({"log": {"zebra": 1}}, "[log] has no key 'zebra'; it has level, format"),
        (
            agents(claude=CLAUDE | {"slts": 1}),
            "agents.claude.slts: [agents.claude] has no key 'slts'; the nearest is 'slots'",
        ),
        (agents(exec={"slts": 1}), "agents.exec.slts: [agents.exec] has no key 'slts'; the nearest is 'slots'"),
        (
            {"routes": [{"agent": "pull"}, {"agent": "pull", "match": {"tipe": 1}}]},
            "routes[2].match.tipe: [routes[2].match]",
        ),
        (agents(a=CLAUDE | {"retry": {"jiter": 1}}), "agents.a.retry.jiter: [agents.a.retry] has no key 'jiter'"),
    ],
)
def test_an_unknown_key_is_named_with_its_table_and_the_nearest_that_exists(data: dict[str, Any], message: str) -> None:
    assert message in refusal(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"max_concurrent": "3"}, "max_concurrent: '3' is not one of auto"),
        ({"max_concurrent": True}, "max_concurrent: expected a number or a string, got a boolean"),
        ({"max_concurrent": 0}, "max_concurrent: expected a number >= 1"),
        ({"order": 3}, "order is a table, not a number"),
        ({"order": {"reserve_after": "-1s"}}, "order.reserve_after: a duration is not negative"),
        ({"order": {"rate": 0}}, "order.rate: expected a number >= 1"),
        (
            agents(claude=CLAUDE | {"budget": {"job_tokens": 0}}),
            "agents.claude.budget.job_tokens: expected a number >= 1",
        ),
        (
            agents(claude=CLAUDE | {"budget": {"day_cost": 1}}),
            "agents.claude.budget.day_cost: [agents.claude.budget] has",
        ),
        (agents(claude=CLAUDE | {"timezone": "UTC"}), "agents.claude.timezone: of what? Set window, or a budget a day"),
        ({"min_free_disk": "some"}, "min_free_disk: a size is a number of bytes"),
        ({"min_free_memory": "auto"}, "min_free_memory: a size is a number of bytes"),
        ({"output": {"head": "many"}}, "output.head: a size is a number of bytes"),
        ({"log": {"level": "lod"}}, "log.level: 'lod' is not one of debug, info, warning, error"),
        ({"groups": {"x": {"max_running": 0}}}, "groups.x.max_running: expected a number >= 1"),
        ({"quotas": {"source": {"robot": {}}}}, "quotas.source.robot: [quotas.source] has no key 'robot'"),
        ({"routes": [{}]}, "routes[1].agent is missing"),
        ({"groups": {"x": {"window": "22-6"}}}, "groups.x.window: '22-6' is no window such as 22:00-06:00"),
        ({"groups": {"x": {"timezone": "UTC"}}}, "groups.x.timezone: of what? Set window"),
        (agents(claude=CLAUDE | {"window": "sat"}), "agents.claude.window: 'sat' ends with days that have no times"),
        (
            agents(claude=CLAUDE | {"window": "1:00-2:00", "timezone": "Europe/Berlim"}),
            "agents.claude.timezone: 'Europe/Berlim' is no time zone; the nearest is 'Europe/Berlin'",
        ),
        ({"resources": {"gpu": -1}}, "resources.gpu: expected a number >= 0"),
        ({"routes": {"agent": "pull"}}, "routes is a list of tables ([[routes]]), not a table"),
        ({"routes": [3]}, "routes[1] is a table, not a number"),
        (agents(claude={"argv": "claude -p"}), "agents.claude.argv: expected a list, got a string"),
        (agents(claude={"argv": ["claude", 3]}), "agents.claude.argv: expected a string, got a number"),
        (agents(claude=3), "agents.claude is a table, not a number"),
        (agents(a=CLAUDE | {"env": {"A": 3}}), "agents.a.env.A: expected a string or a table, got a number"),
        ({"agents": {"cl aude": CLAUDE}}, 'agents."cl aude": a name is 1 to 64 of'),
        ({"agents": {"": CLAUDE}}, 'agents."": a name is 1 to 64 of'),
        ({"security": {"env_secret": ["a\x1b[31m"]}}, "security.env_secret: expected a string matching regex"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(data: dict[str, Any], message: str) -> None:
    assert message in refusal(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"default_agent": "claud"}, "default_agent: there is no agent 'claud'; there are exec, pull"),
        ({"default_agent": "exec"}, "default_agent: exec runs commands"),
        ({"routes": [{"agent": "claude"}]}, "routes[1].agent: there is no agent 'claude'"),
        ({"routes": [{"agent": "pull", "priority": 11}]}, "routes[1].priority: a priority is one of"),
        (
            {"routes": [{"agent": "pull", "priority": "critical"}]},
            "routes[1].priority: critical is for what a user asks",
        ),
        ({"routes": [{"agent": "pull", "name": "a"}, {"agent": "pull", "name": "a"}]}, "two have the same name"),
        (agents(a={}), "agents.a.argv is missing"),
        (agents(a={"argv": [""]}), "agents.a.argv: no argument holds a NUL"),
        (
            agents(a=CLAUDE | {"retry": "slwo"}),
            "agents.a.retry: there is no policy 'slwo'; there are default, fast, slow",
        ),
        (agents(a=CLAUDE | {"retry": "none", "max_retries": 2}), "agents.a.max_retries: its retry policy is none"),
        (agents(a=CLAUDE | {"retry": {"on": ["lost"]}}), "agents.a.retry.on: lost is no matter of retries"),
        (agents(a=CLAUDE | {"retry": {"base": "1h"}}), "agents.a.retry.cap is shorter than its base"),
        (agents(a=CLAUDE | {"may_submit": ["b"]}), "agents.a.may_submit: there is no agent 'b'"),
        (agents(a=CLAUDE | {"needs": {"repo": 2}}), "agents.a.needs: 2 of 'repo', of which there are 1"),
        (agents(a=CLAUDE | {"env": {"OPUS_JOB_ID": "1"}}), "agents.a.env.OPUS_JOB_ID: the daemon itself sets"),
        (agents(a=CLAUDE | {"env": {"A=B": "1"}}), "not a name of an environment variable"),
        (agents(a=CLAUDE | {"env": {"A": {"from_evn": "B"}}}), "agents.a.env.A: a string, {from_env = NAME}"),
        (agents(exec={"argv": ["sh"]}), "agents.exec.argv: exec runs the job's command"),
        (agents(pull={"slots": 2}), "agents.pull.slots: workers alone"),
        ({"order": {"low": 300}}, "order: low <= normal <= urgent"),
        ({"retention": {"history": "1d"}}, "retention.history is not shorter"),
        ({"retention": {"every": 0}}, "retention.every is longer than 0"),
        ({"socket": {"path": "opusd.sock"}}, "socket.path is an absolute path"),
        ({"socket": {"path": "/" + "x" * 107}}, "of at most 107 bytes"),
        ({"socket": {"max_connections": 0}}, "socket.max_connections"),
        ({"socket": {"max_connections": "many"}}, "socket.max_connections"),
    ],
)
def test_what_does_not_fit_together_is_refused(data: dict[str, Any], message: str) -> None:
    assert message in refusal(data)


# ---------------------------------------------------------------------------------------------------- the file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("max_concurrent = 5\n")
    path.chmod(0o644)
    return path


def message_of(path: Path, **options: bool) -> str:
    with pytest.raises(ConfigError) as refused:
        load(path, **options)
    return str(refused.value)


def test_a_file_is_loaded_and_a_missing_one_is_the_defaults_unless_asked_for(file: Path) -> None:
    assert load(file).max_concurrent == 5
    file.unlink()
    assert load(file) == parse({})
    assert "does not exist" in message_of(file, must_exist=True)


@pytest.mark.parametrize("mode", [stat.S_IWOTH, stat.S_IWGRP])
def test_a_file_that_others_can_write_is_refused_with_the_cure(file: Path, mode: int) -> None:
    file.chmod(0o600 | mode)
    assert message_of(file).endswith(f"chmod go-w {file}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    os.chown(file, 65534, -1)
    assert "belongs to uid 65534" in message_of(file)


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_file_in_a_folder_that_others_can_write_is_refused_unless_it_is_sticky(file: Path, mode: int) -> None:
    folder = file.parent
    folder.chmod(mode)
    assert message_of(file).endswith(f"chmod go-w {folder}")
    link = folder / "fine"
    link.mkdir(mode=0o700)
    (link / "config.toml").symlink_to(file)
    assert message_of(link / "config.toml").endswith(f"chmod go-w {folder}")
    folder.chmod(mode | stat.S_ISVTX)
    assert load(file).max_concurrent == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_file_in_the_folder_of_another_user_is_refused(file: Path) -> None:
    os.chown(file.parent, 65534, -1)
    assert "which belongs to uid 65534" in message_of(file)


def test_what_is_no_toml_is_refused_with_the_place(file: Path) -> None:
    file.write_text("max_concurrent = \n")
    assert "is not TOML" in message_of(file)
    assert "line 1" in message_of(file)
    file.write_bytes(b"a = '\xff'")
    assert "is not UTF-8" in message_of(file)
    file.write_text("a = " + "[" * 100_000)
    assert str(file) in message_of(file)


def test_what_is_no_file_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in message_of(tmp_path / "pipe")
    assert "not a regular file" in message_of(tmp_path)


def test_a_refusal_names_the_file_and_the_key(file: Path) -> None:
    file.write_text("[agents.claude]\nargvv = ['x']\n")
    assert message_of(file) == f"{file}: agents.claude.argvv: [agents.claude] has no key 'argvv'; the nearest is 'argv'"


def test_opusd_can_start_what_has_an_argv_though_it_has_no_slots() -> None:
    core = parse(agents(claude=CLAUDE | {"slots": 0}, boxed={"slots": 0})).limits().agents
    assert [(core[name].slots, core[name].starts) for name in ("claude", "boxed")] == [(0, True), (0, False)]


def test_a_config_is_a_value(file: Path) -> None:
    config = load(file)
    assert isinstance(config, Config)
    with pytest.raises(AttributeError):
        config.max_concurrent = 9  # type: ignore[misc]


def test_a_budget_counts_the_days_of_its_agents_zone() -> None:
    table = {"budget": {"job_tokens": 7, "day_cost_usd": 2}, "timezone": "Europe/Berlin"}
    budget = parse(agents(claude=CLAUDE | table)).limits().agents["claude"].budget
    assert budget is not None
    assert (budget.job_tokens, budget.job_cost_usd, budget.day_tokens, budget.day_cost_usd) == (7, None, None, 2)
    summer = datetime(2026, 7, 1, 21, 59, tzinfo=UTC)
    assert datetime.fromtimestamp(budget.days.end(_micros(summer)) / 1e6, UTC) == datetime(2026, 7, 1, 22, tzinfo=UTC)
    change = datetime(2026, 10, 24, 22, tzinfo=UTC)  # a day of 25 hours begins
    assert datetime.fromtimestamp(budget.days.end(_micros(change)) / 1e6, UTC) == datetime(2026, 10, 25, 23, tzinfo=UTC)
    assert parse(agents(claude=CLAUDE)).limits().agents["claude"].budget is None


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
