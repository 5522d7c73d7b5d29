from pathlib import Path

import pytest

from opusd.config import machine as machines
from opusd.config.machine import GIB, automatic_pool


class Machine:
    """A tree with the files under /proc and /sys that tell of a machine's size."""

    def __init__(self, root: Path, memory: int) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal:       {memory // 1024} kB\nMemAvailable: {memory // 4096} kB\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cgroup2(self, path: str, exported: str = "/") -> None:
        self.write("proc/self/cgroup", f"0::{path}\n")
        self.write(
            "proc/self/mountinfo", f"30 23 0:26 {exported} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
        )

    def cgroup1(self, path: str, exported: str = "/") -> None:
        self.write("proc/self/cgroup", f"4:memory:{path}\n3:cpu,cpuacct:{path}\n0::/\n")
        self.write(
            "proc/self/mountinfo",
            f"30 23 0:26 {exported} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            f"31 23 0:27 {exported} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
        )

    def free(self) -> int | None:
        return machines.Machine(self.root, self.root).room().free_memory

    def pool(self, processors: int) -> int:
        return automatic_pool(self.root, processors)


@pytest.mark.parametrize(
    ("processors", "gib", "pool"), [(1, 64, 1), (2, 64, 1), (4, 64, 3), (32, 64, 5), (32, 7, 3), (32, 1, 1), (6, 10, 5)]
)
def test_a_machine_bears_a_processor_less_than_it_has_2_gib_each_and_5_at_most(
    tmp_path: Path, processors: int, gib: int, pool: int
) -> None:
    assert Machine(tmp_path, gib * GIB).pool(processors) == pool


def test_the_limits_of_every_cgroup_above_count(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 64 * GIB)
    machine.cgroup2("/user.slice/opusd.service")
    machine.write("sys/fs/cgroup/user.slice/opusd.service/cpu.max", "max 100000\n")
    machine.write("sys/fs/cgroup/user.slice/opusd.service/memory.max", "max\n")
    assert machine.pool(16) == 5
    machine.write("sys/fs/cgroup/user.slice/cpu.max", "450000 100000\n")
    assert machine.pool(16) == 3
    machine.write("sys/fs/cgroup/user.slice/memory.max", f"{5 * GIB}\n")
    assert machine.pool(16) == 2


def test_a_container_sees_its_own_cgroup_at_the_top_of_the_mount(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 64 * GIB)
    machine.cgroup2("/docker/abc", exported="/docker/abc")
    machine.write("sys/fs/cgroup/cpu.max", "300000 100000\n")
    assert machine.pool(16) == 2
    machine.cgroup2("/../elsewhere", exported="/docker/abc")
    assert machine.pool(16) == 2


def test_cgroups_of_version_1_count_too(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 64 * GIB)
    machine.cgroup1("/build")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/build/cpu.cfs_quota_us", "-1\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/build/cpu.cfs_period_us", "100000\n")
    assert machine.pool(16) == 5
    machine.write("sys/fs/cgroup/cpu,cpuacct/build/cpu.cfs_quota_us", "350000\n")
    assert machine.pool(16) == 2
    machine.write("sys/fs/cgroup/memory/build/memory.limit_in_bytes", f"{2 * GIB}\n")
    assert machine.pool(16) == 1


def test_this_machine_bears_one_at_least() -> None:
    assert 1 <= automatic_pool() <= 5


MIB = 1 << 20


def test_free_memory_is_what_the_machine_has_to_give(tmp_path: Path) -> None:
    assert Machine(tmp_path, 8 * GIB).free() == 2 * GIB
    (tmp_path / "proc/meminfo").unlink()
    assert machines.Machine(tmp_path, tmp_path).room().free_memory is None


def test_a_cgroup_gives_what_is_left_of_its_limit_and_what_can_be_taken_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 64 * GIB)
    machine.cgroup2("/user.slice/opusd.service")
    machine.write("sys/fs/cgroup/user.slice/opusd.service/memory.max", "max\n")
    machine.write("sys/fs/cgroup/user.slice/opusd.service/memory.current", f"{900 * MIB}\n")
    assert machine.free() == 16 * GIB
    machine.write("sys/fs/cgroup/user.slice/memory.max", f"{1024 * MIB}\n")
    machine.write("sys/fs/cgroup/user.slice/memory.current", f"{1000 * MIB}\n")
    assert machine.free() == 24 * MIB
    machine.write("sys/fs/cgroup/user.slice/memory.stat", f"anon 5\ninactive_file {276 * MIB}\nactive_file 7\n")
    assert machine.free() == 300 * MIB
    machine.write("sys/fs/cgroup/user.slice/memory.current", f"{2000 * MIB}\n")
    assert machine.free() == 0


def test_a_cgroup_of_version_1_gives_the_same(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 64 * GIB)
    machine.cgroup1("/build")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", f"{3 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/build/memory.limit_in_bytes", f"{2 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/build/memory.usage_in_bytes", f"{GIB}\n")
    machine.write("sys/fs/cgroup/memory/build/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n")
    assert machine.free() == 1.5 * GIB


def test_the_disk_is_that_of_the_folder_and_one_that_is_gone_is_not_known(tmp_path: Path) -> None:
    room = machines.Machine(tmp_path).room()
    assert room.free_disk is not None
    assert room.disk is not None
    assert 0 < room.free_disk <= room.disk
    assert machines.Machine(tmp_path / "gone").room().free_disk is None
