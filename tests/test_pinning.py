"""Which worker computes on which cores, and what the system says of cores."""

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpool.errors import ConfigError
from workers.cgroups import cpu_quota
from workers.cores import read_topology
from workers.pinning import Core, flat, plan_cores


def test_each_worker_has_its_own_cores():
    plan = plan_cores(flat([4, 5, 6, 7]), None, workers=2, threads=2, allow_oversubscription=False)
    assert plan.core_sets == ((4, 5), (6, 7))
    assert plan.warning is None


def test_auto_is_as_many_workers_as_fit():
    assert len(plan_cores(flat(range(7)), None, "auto", 2, False).core_sets) == 3
    assert len(plan_cores(flat(range(1)), None, "auto", 1, False).core_sets) == 1


def test_64_workers_on_64_cores():
    plan = plan_cores(flat(range(64)), None, "auto", 1, False)
    assert plan.core_sets == tuple((core,) for core in range(64))


def test_a_cgroup_quota_counts_as_whole_cores_and_at_least_one():
    assert len(plan_cores(flat(range(8)), 2.9, "auto", 1, False).core_sets) == 2
    assert len(plan_cores(flat(range(8)), 0.5, "auto", 1, False).core_sets) == 1


def test_too_many_workers_are_refused_with_the_figures_and_the_way_out():
    with pytest.raises(ConfigError) as caught:
        plan_cores(flat(range(8)), 2.5, workers=3, threads=2, allow_oversubscription=False)
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
        plan_cores(flat(range(2)), None, "auto", 3, False)


def test_oversubscribed_workers_share_cores_round_robin_and_say_so():
    plan = plan_cores(flat([0, 1]), None, workers=3, threads=1, allow_oversubscription=True)
    assert plan.core_sets == ((0,), (1,), (0,))
    assert plan.warning
    assert "3 cores, usable are 2" in plan.warning


def test_more_threads_than_cores_use_all_cores_when_allowed():
    plan = plan_cores(flat([0, 1]), None, workers="auto", threads=3, allow_oversubscription=True)
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
        plan = plan_cores(flat(sorted(allowed)), quota, workers, threads, allow)
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


def host(sockets, cores_each, hyperthreads=1):
    """Numbered as Linux does on most servers: the first hyperthread of every core, then the second ones in the same order."""
    n = sockets * cores_each
    return [Core(id, (id % n) // cores_each, id % n) for id in range(n * hyperthreads)]


def by_id(cores):
    return {core.id: core for core in cores}


def without_odd_holes(cores):
    """What an affinity mask with holes may leave: no third core, no first hyperthread of every seventh."""
    return [core for core in cores if core.physical % 3 != 1 and not (core.id == core.physical and core.id % 7 == 0)]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("hyperthreads", [1, 2])
def test_64_workers_on_two_sockets(threads, hyperthreads):
    cores = host(2, 32 * threads, hyperthreads)
    plan = plan_cores(cores, None, 64, threads, False)
    known = by_id(cores)
    used = [known[id] for core_set in plan.core_sets for id in core_set]
    assert plan.warning is None
    assert [len(core_set) for core_set in plan.core_sets] == [threads] * 64
    assert all(len({known[id].node for id in core_set}) == 1 for core_set in plan.core_sets), "a worker spans sockets"
    assert len({core.physical for core in used}) == len(used), "two threads on one physical core while others are idle"
    nodes = [known[core_set[0]].node for core_set in plan.core_sets]
    assert nodes == [0, 1] * 32, "workers are dealt out to the sockets in turn"
    assert plan_cores(cores, None, "auto", threads, False) == plan, "auto counts physical cores"


def test_further_hyperthreads_are_used_last_and_only_on_demand():
    cores = host(2, 2, hyperthreads=2)
    plan = plan_cores(cores, None, 6, 1, False)
    assert plan.core_sets == ((0,), (2,), (1,), (3,), (4,), (6,))
    assert plan.warning.startswith("2 workers compute on further hyperthreads")
    with pytest.raises(
        ConfigError, match=r"usable are 8 \(affinity allows 8 on sockets of 4 \+ 4\); set pool.workers to at most 8"
    ):
        plan_cores(cores, None, 9, 1, False)


def test_one_physical_core_still_makes_a_worker_of_two_threads():
    assert plan_cores(host(1, 1, hyperthreads=2), None, "auto", 2, False).core_sets == ((0, 1),)


def test_a_worker_larger_than_a_socket_is_refused_with_the_size_of_the_sockets():
    with pytest.raises(ConfigError) as caught:
        plan_cores(host(2, 4), None, "auto", 6, False)
    assert "usable are 8 (affinity allows 8 on sockets of 4 + 4); set pool.threads to at most 4" in str(caught.value)
    assert plan_cores(host(2, 4), None, 1, 6, True).core_sets == ((0, 1, 2, 3, 4, 5),)


def test_workers_that_share_cores_take_physical_ones_first():
    plan = plan_cores(host(2, 2, hyperthreads=2), 2.0, 3, 1, True)
    assert plan.core_sets == ((0,), (1,), (0,))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("hyperthreads", [1, 2])
def test_an_affinity_with_holes_loses_no_core_that_could_serve(threads, hyperthreads):
    cores = without_odd_holes(host(2, 32, hyperthreads))
    known = by_id(cores)
    fitting = sum(len({core.physical for core in cores if core.node == node}) // threads for node in (0, 1))
    plan = plan_cores(cores, None, "auto", threads, False)
    used = [known[id] for core_set in plan.core_sets for id in core_set]
    assert len(plan.core_sets) == fitting
    assert len({core.physical for core in used}) == len(used) == fitting * threads
    assert all(len({known[id].node for id in core_set}) == 1 for core_set in plan.core_sets)


@settings(deadline=None, max_examples=60)
@given(
    cores=st.builds(host, st.integers(1, 4), st.integers(1, 9), st.integers(1, 2)),
    data=st.data(),
    quota=st.none() | st.floats(0.1, 60),
    workers=st.integers(1, 70) | st.just("auto"),
    threads=st.integers(1, 6),
)
def test_no_worker_spans_sockets_and_no_core_is_used_twice(cores, data, quota, workers, threads):
    allowed = data.draw(st.lists(st.sampled_from(cores), min_size=1, unique=True))
    known = by_id(allowed)
    try:
        plan = plan_cores(allowed, quota, workers, threads, False)
    except ConfigError:
        return
    used = [id for core_set in plan.core_sets for id in core_set]
    assert len(used) == len(set(used)) == threads * len(plan.core_sets)
    assert quota is None or len(used) <= max(1, quota)
    assert all(len({known[id].node for id in core_set}) == 1 for core_set in plan.core_sets)
    shares = [{known[id].physical for id in core_set} for core_set in plan.core_sets]
    assert plan.warning or sum(map(len, shares)) == len(set().union(*shares)), "hyperthreads shared without a word"


def lay_out(folder, cores, *, numa=True):
    for core in cores:
        siblings = ",".join(str(other.id) for other in cores if other.physical == core.physical)
        write(folder / f"cpu{core.id}/topology/thread_siblings_list", f"{siblings}\n")
        write(folder / f"cpu{core.id}/topology/physical_package_id", f"{core.node}\n")
        if numa:
            (folder / f"cpu{core.id}/node{core.node}").mkdir()


@pytest.mark.parametrize("numa", [True, False])
def test_the_topology_is_read_as_linux_tells_it(tmp_path, numa):
    cores = host(2, 2, hyperthreads=2)
    lay_out(tmp_path, cores, numa=numa)
    assert read_topology(range(8), tmp_path) == cores
    write(tmp_path / "cpu6/topology/thread_siblings_list", "5-7\n")
    assert read_topology([6], tmp_path) == [Core(6, 1, 5)]


def test_where_the_topology_cannot_be_read_every_core_stands_for_itself(tmp_path):
    lay_out(tmp_path, host(1, 2, hyperthreads=2))
    assert read_topology([0, 2, 7], tmp_path) == flat([0, 2, 7]), "one that is missing makes all the others unsure"
    write(tmp_path / "cpu2/topology/thread_siblings_list", "\n")
    assert read_topology([0, 2], tmp_path) == flat([0, 2])


def test_the_tightest_quota_of_a_v2_group_and_those_above_it_holds(tmp_path):
    write(tmp_path / "self", "0::/system.slice/hotpool.service\n")
    write(tmp_path / "fs/cpu.max", "max 100000\n")
    write(tmp_path / "fs/system.slice/cpu.max", "250000 100000\n")
    write(tmp_path / "fs/system.slice/hotpool.service/cpu.max", "400000 100000\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "self") == 2.5


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    write(tmp_path / "self", "0::/docker/4f2a\n")  # a path of the host, which does not exist in here
    write(tmp_path / "fs/cpu.max", "150000 100000\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "self") == 1.5


def test_a_v1_quota_is_read_and_minus_one_means_none(tmp_path):
    write(tmp_path / "self", "5:memory:/a\n4:cpu,cpuacct:/a\n")
    write(tmp_path / "fs/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "fs/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "self") == 3.0
    write(tmp_path / "fs/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "self") is None


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "fs", tmp_path / "none") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins")
def test_a_process_pins_itself():
    from workers.cores import allowed_cores, pin

    before = allowed_cores()
    try:
        pin((before[-1].id,))
        assert os.sched_getaffinity(0) == {before[-1].id}
    finally:
        pin(tuple(core.id for core in before))
