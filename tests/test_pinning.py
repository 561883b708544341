"""Which worker computes on which cores, and what the system says of cores."""

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpool.errors import ConfigError
from workers.cores import cgroup_quota
from workers.pinning import plan_cores


def test_each_worker_has_its_own_cores():
    plan = plan_cores([4, 5, 6, 7], None, workers=2, threads=2, allow_oversubscription=False)
    assert plan.core_sets == ((4, 5), (6, 7))
    assert plan.warning is None


def test_auto_is_as_many_workers_as_fit():
    assert len(plan_cores(range(7), None, "auto", 2, False).core_sets) == 3
    assert len(plan_cores(range(1), None, "auto", 1, False).core_sets) == 1


def test_64_workers_on_64_cores():
    plan = plan_cores(range(64), None, "auto", 1, False)
    assert plan.core_sets == tuple((core,) for core in range(64))


def test_a_cgroup_quota_counts_as_whole_cores_and_at_least_one():
    assert len(plan_cores(range(8), 2.9, "auto", 1, False).core_sets) == 2
    assert len(plan_cores(range(8), 0.5, "auto", 1, False).core_sets) == 1


def test_too_many_workers_are_refused_with_the_figures_and_the_way_out():
    with pytest.raises(ConfigError) as caught:
        plan_cores(range(8), 2.5, workers=3, threads=2, allow_oversubscription=False)
    text = str(caught.value)
    for part in (
        "workers = 3",
        "threads = 2",
        "6 cores",
        "usable are 2",
        "affinity allows 8",
        "quota 2.5",
        "at most 1",
    ):
        assert part in text, text
    assert "allow_oversubscription" in text


def test_more_threads_than_cores_are_refused_even_for_auto():
    with pytest.raises(ConfigError, match=r"pool.threads to at most 2"):
        plan_cores(range(2), None, "auto", 3, False)


def test_oversubscribed_workers_share_cores_round_robin_and_say_so():
    plan = plan_cores([0, 1], None, workers=3, threads=1, allow_oversubscription=True)
    assert plan.core_sets == ((0,), (1,), (0,))
    assert plan.warning
    assert "3 cores, usable are 2" in plan.warning


def test_more_threads_than_cores_use_all_cores_when_allowed():
    plan = plan_cores([0, 1], None, workers="auto", threads=3, allow_oversubscription=True)
    assert plan.core_sets == ((0, 1),)
    assert plan.threads == 3


@settings(deadline=None)
@given(
    allowed=st.sets(st.integers(0, 500), min_size=1, max_size=100),
    quota=st.none() | st.floats(0.1, 200),
    workers=st.integers(1, 130) | st.just("auto"),
    threads=st.integers(1, 8),
    allow=st.booleans(),
)
def test_no_plan_shares_or_invents_cores_unless_it_warns(allowed, quota, workers, threads, allow):
    try:
        plan = plan_cores(sorted(allowed), quota, workers, threads, allow)
    except ConfigError:
        assert not allow
        return
    used = [core for cores in plan.core_sets for core in cores]
    assert set(used) <= allowed
    assert workers in ("auto", len(plan.core_sets))
    if plan.warning is None:
        assert len(used) == len(set(used)) == threads * len(plan.core_sets)
        assert quota is None or len(used) <= max(1, quota)
    else:
        assert allow


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_tightest_quota_of_a_v2_group_and_those_above_it_holds(tmp_path):
    write(tmp_path / "self", "0::/system.slice/hotpool.service\n")
    write(tmp_path / "fs/cpu.max", "max 100000\n")
    write(tmp_path / "fs/system.slice/cpu.max", "250000 100000\n")
    write(tmp_path / "fs/system.slice/hotpool.service/cpu.max", "400000 100000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "self") == 2.5


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    write(tmp_path / "self", "0::/docker/4f2a\n")  # a path of the host, which does not exist in here
    write(tmp_path / "fs/cpu.max", "150000 100000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "self") == 1.5


def test_a_v1_quota_is_read_and_minus_one_means_none(tmp_path):
    write(tmp_path / "self", "5:memory:/a\n4:cpu,cpuacct:/a\n")
    write(tmp_path / "fs/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "fs/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "self") == 3.0
    write(tmp_path / "fs/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "self") is None


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cgroup_quota(tmp_path / "fs", tmp_path / "none") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins")
def test_a_process_pins_itself():
    from workers.cores import allowed_cores, pin

    before = allowed_cores()
    try:
        pin((before[-1],))
        assert os.sched_getaffinity(0) == {before[-1]}
    finally:
        pin(tuple(before))
