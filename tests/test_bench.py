"""The frame of `make bench`: what it makes of findings, and that one benchmark's failure is not the others'."""

from bench import engines  # noqa: I001  must come before torchvision

import errno
import importlib
import os
from dataclasses import replace
from time import monotonic

import msgspec
import pytest

from bench.__main__ import all_well, run_all, run_one
from bench.changes import Change, Seen, class_of, figures_of, judge
from bench.figures import Bar, Figure, Findings, ratios, write_number, write_spread
from bench.measure import asked
from bench.pool import MADE, homes
from bench.record import read_entries
from bench.report import Entry, bar_rows, figure_lines, total_row, write_results
from bench.soak import Sample, Soak
from bench.soak import findings as soak_findings
from bench.table import BENCHMARKS, Benchmark
from control.versions import list_versions
from hotpool.manifest import WEIGHTS, version_folder

HALF = Bar("rate of a no-op model", "≥", 0.5)
MACHINE = {"CPU": "abacus", "cores": "2"}

GOOD = """
from bench.figures import Bar, Figure, Findings
def run(quick=False):
    return Findings((Figure("ours", "ratio", (1.0,) if quick else (2.0, 3.0, 7.0), bar=Bar("it is fast", "≤", 2.5)),))
"""


def entry(*figures, date="2026-01-02 10:00 UTC", machine=MACHINE, failed="", notes=()):
    return Entry("what it costs", date, "abc1234", machine, 0.25, 12.0, Findings(figures, notes), failed)


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """name -> source of its module, run in a process that finds it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        return {name: Benchmark(name, f"shows {name}") for name in sources}

    return make


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (0.0123, "0.0123"),
        (0.9996, "1.000"),
        (1.0, "1.00"),
        (36.94, "36.9"),
        (5673.2, "5,673"),
        (2e-5, "2e-05"),
    ],
)
def test_a_number_is_written_with_three_digits_and_no_exponent_where_people_read_it(value, written):
    assert write_number(value) == written


def test_a_figure_is_written_as_median_and_range():
    assert write_spread(Figure("ours", "rate", (5.0, 1.0, 3.0))) == "3.00 (1.00 to 5.00)"
    assert write_spread(Figure("ours", "rate", (3.0,))) == "3.00"
    assert write_spread(Figure("ours", "rate", ())) == "not measured"


def test_ratios_are_taken_within_each_round():
    assert ratios((2.0, 9.0), (1.0, 3.0)) == (2.0, 3.0)
    assert ratios((), (1.0,)) == ratios((1.0,), ()) == ()
    with pytest.raises(ValueError, match="zip"):
        ratios((1.0, 2.0), (1.0,))


@pytest.mark.parametrize(
    ("bar", "values", "is_met"),
    [
        (Bar("x", "≤", 0.7), (0.1, 0.7, 0.9), True),
        (Bar("x", "≤", 0.7), (0.1, 0.71, 0.9), False),
        (Bar("x", "≥", 0.7), (0.1, 0.7, 0.9), True),
        (Bar("x", "≥", 0.7), (0.1, 0.69, 0.9), False),
        (Bar("x", "≤", 0.7), (), None),
        (None, (0.5,), None),
    ],
)
def test_a_bar_holds_for_the_median(bar, values, is_met):
    assert Figure("ours", "ratio", values, bar=bar).is_met is is_met


@pytest.mark.parametrize(
    ("rate", "ratio", "met"),
    [
        ((5200.0,), (0.3,), "yes"),
        ((4000.0,), (0.6,), "yes"),
        ((4000.0,), (0.3,), "no"),
        ((4000.0,), (), "not measured"),
    ],
)
def test_bars_of_the_same_promise_are_alternatives(rate, ratio, met):
    fast = Figure("ours", "rate", rate, "requests/s", Bar(HALF.what, "≥", 5000))
    rows = bar_rows({"broker": entry(fast, Figure("ours", "ratio", ratio, bar=HALF))})
    assert [(row[0], row[1], row[3]) for row in rows] == [(HALF.what, "≥ 5,000 requests/s or ≥ 0.5", met)]


def test_results_begin_with_the_bars_and_the_machine_and_give_each_benchmark_a_table_of_sides():
    ours = (
        Figure("ours", "16 in flight", (5673.0,), "requests/s"),
        Figure("ours", "ratio", (0.625, 0.5, 0.75), bar=HALF),
    )
    text = write_results(
        {"broker": entry(*ours, Figure("bare", "16 in flight", (9060.0,), "requests/s"), notes=("2 workers",))}
    )
    lines = text.splitlines()
    assert "| rate of a no-op model | ≥ 0.5 | 0.625 (0.500 to 0.750) | yes |" in lines
    assert "| CPU | abacus |" in lines
    table = lines.index("|  | 16 in flight, requests/s | ratio |")
    assert lines[table + 2 : table + 6] == [
        "| ours | 5,673 | 0.625 (0.500 to 0.750) |",
        "| bare | 9,060 |  |",
        "",
        "- 2 workers",
    ]
    headings = [line for line in lines if line.startswith("#")]
    assert headings == ["# Results", "## Bars", "## Machine", "## broker"]
    assert "(2026-01-02 10:00 UTC, commit abc1234, load 0.25 before, 12 s.)" in lines


def test_a_failed_benchmark_is_a_bar_that_is_not_met_and_says_why():
    text = write_results({"broker": entry(failed="ValueError: a | b")})
    assert "| (all of broker) |  | failed: ValueError: a \\| b | no |" in text
    assert "Failed: ValueError: a | b" in text


def test_figures_of_another_machine_say_so():
    old = entry(Figure("ours", "ms", (1.0,)), date="2025-01-01 10:00 UTC", machine={"CPU": "slide rule", "cores": "2"})
    text = write_results({"old": old, "new": entry(Figure("ours", "ms", (1.0,)))})
    assert "| CPU | abacus |" in text
    assert text.count("Not measured on the machine above but with CPU: slide rule.") == 1


def test_how_long_all_of_it_took_is_known_of_one_run_alone():
    one = entry(Figure("ours", "ms", (1.0,)))
    whole = dict.fromkeys(BENCHMARKS, one)
    seen = f"{12 * len(BENCHMARKS)} s"
    by_hand = {"soak": replace(one, commit="fed4321", took_s=1800.0)}
    assert total_row(whole | by_hand) == ("`make bench`, all of it", "≤ 600 s", seen, "yes")
    for other in (replace(one, commit="fed4321"), replace(one, machine={"CPU": "slide rule"})):
        assert total_row(whole | {"engines": other})[2:] == ("not measured", "not measured")
    for part in ({"engines": one}, by_hand, {}):
        assert total_row(part)[2:] == ("not measured", "not measured")


def test_a_run_is_well_when_nothing_failed_and_no_bar_was_missed():
    good, missed = (Figure("ours", "ratio", (value,), bar=HALF) for value in (0.6, 0.4))
    not_measured = Figure("ours", "ratio", (), bar=Bar("another", "≥", 1))
    assert all_well({"broker": entry(good, not_measured)}, quick=False)
    assert not all_well({"broker": entry(good), "scale": entry(missed)}, quick=False)
    assert all_well({"broker": entry(missed)}, quick=True), "a few rounds say nothing"
    assert not all_well({"broker": entry(failed="exit code 3")}, quick=True)
    assert not all_well({"broker": entry(failed="exit code 3")}, quick=False)


def test_figures_are_told_one_a_line_with_their_names_below_one_another():
    figures = (Figure("ours", "p50", (1.0, 2.0, 4.0), "ms"), Figure("bare process", "rate", (250.0,), "pictures/s"))
    assert figure_lines(Findings(figures)) == [
        "ours          p50   2.00 (1.00 to 4.00) ms",
        "bare process  rate  250 pictures/s",
    ]
    assert figure_lines(Findings(())) == []


def test_a_change_of_model_is_judged_by_failures_silence_and_when_the_old_one_was_last_heard():
    """Ordered at 10; the old model (7) is heard until 12, the new one (9) alone from 14 on."""
    old = [(9.0, 7), (9.5, 7), (10.2, 7), (12.0, 7)]
    new = [(11.0, 9), (14.0, 9), (14.5, 9), (15.0, 9)]
    seen = Seen([*old, *new], failures=[9.9, 10.0, 13.0])
    assert judge(seen, since=8.0, ordered=10.0, old=7) == Change(failed=2, silence_s=2.0, taken_s=4.0, rate=0.75)


def test_a_silence_that_was_over_when_the_change_was_ordered_is_not_its_own():
    seen = Seen([(1.0, 7), (9.0, 7), (11.0, 7), (11.5, 9)])
    assert judge(seen, since=0.0, ordered=10.0, old=7).silence_s == 2.0


@pytest.mark.parametrize("answer", [3, [3], {"class": 3}, {"predictions": [{"index": 3}, {"index": 1}]}])
def test_the_class_is_found_in_each_servers_answer(answer):
    assert class_of(answer) == 3


@pytest.mark.parametrize("answer", [None, "3", [], [3, 1], {"classes": 3}, {"predictions": []}])
def test_an_answer_without_a_class_is_an_error(answer):
    with pytest.raises(ValueError, match="no class in"):
        class_of(answer)


def test_hotpools_silence_is_held_against_that_of_each_server_that_can_change_its_model():
    ours, mosec, ray = Change(0, 0.03, 6.0, 0.8), Change(1000, 3.0, 3.0, 0.0), Change(0, 0.06, 5.0, 0.7)
    torchserve = Change(3, 0.1, 10.0, 0.9)

    def bars(theirs):
        return [row[2:] for row in bar_rows({"changes": entry(*figures_of({"hotpool, drain": ours}, theirs))})]

    both = {"Ray Serve": ray, "TorchServe": torchserve}
    assert bars({"Mosec": mosec, **both}) == [("0", "yes"), ("0.500", "yes"), ("0.300", "yes")]
    assert bars({"Mosec": mosec, "TorchServe": torchserve}) == [
        ("0", "yes"), ("not measured", "not measured"), ("0.300", "yes")
    ]  # fmt: skip
    assert bars({**both, "Ray Serve": replace(ray, silence_s=0.02)}) == [("0", "yes"), ("1.50", "no"), ("0.300", "yes")]


@pytest.mark.slow
def test_one_benchmark_that_fails_does_not_stop_the_rest(benchmarks, tmp_path, capsys):
    sources = {
        "raises": "def run(quick=False):\n    print('so far')\n    raise ValueError('no such thing')",
        "ends": "import os\ndef run(quick=False):\n    os._exit(3)",
        "nonsense": "from bench.figures import *\ndef run(quick):\n    return Findings((Figure('a', 'b', (float('nan'),)),))",
        "good": GOOD,
    }
    table = benchmarks(**sources)
    results = tmp_path / "results.json"
    entries = run_all(table, list(table), results)
    assert entries["raises"].failed == "ValueError: no such thing"
    assert entries["ends"].failed == "exit code 3"
    assert "null" in entries["nonsense"].failed
    assert not entries["good"].failed
    assert entries["good"].findings.figures[0].median == 3.0
    assert read_entries(results) == entries
    assert results.with_suffix(".md").read_text() == write_results(entries)
    seen = capsys.readouterr()
    assert "no: it is fast ≤ 2.5, seen 3.00 (2.00 to 7.00)" in seen.out
    assert "so far" in seen.err


@pytest.mark.slow
def test_a_benchmark_that_hangs_is_ended_with_what_it_started(benchmarks, tmp_path):
    fifo = tmp_path / "held_open"  # has a reader as long as the process that the benchmark starts lives
    os.mkfifo(fifo)
    source = f"import subprocess\ndef run(quick=False):\n    subprocess.run(['sh', '-c', 'exec 3<> {fifo}; sleep 60'])"
    ended = run_one(benchmarks(hangs=source)["hangs"], "abc1234", limit_s=0.5)
    assert ended.failed == "not done after 0.5 s"
    deadline = monotonic() + 10
    while has_reader(fifo):
        assert monotonic() < deadline, "what the benchmark started is still there"


def has_reader(fifo):
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    return True


@pytest.mark.slow
def test_a_run_of_some_keeps_what_was_measured_of_the_others_and_drops_what_is_no_more(benchmarks, tmp_path):
    table = benchmarks(first=GOOD, good=GOOD, last=GOOD)
    results = tmp_path / "results.json"
    kept = entry(Figure("ours", "ms", (1.0, 2.0), "ms", HALF), notes=("old",))
    results.write_bytes(msgspec.json.encode({"soak": kept, "last": kept, "good": kept, "gone": kept, "first": kept}))
    entries = run_all(table, ["good"], results)
    assert list(entries) == ["first", "good", "last", "soak"]
    assert entries["first"] == entries["last"] == entries["soak"] == kept
    assert entries["good"] != kept
    assert read_entries(results) == entries


@pytest.mark.slow
def test_quick_reaches_the_benchmark(benchmarks, tmp_path):
    table = benchmarks(good=GOOD)
    assert run_all(table, ["good"], tmp_path / "results.json", quick=True)["good"].findings.figures[0].values == (1.0,)


ECHO = """
import sys
for line in sys.stdin:
    if line == "end\\n":
        sys.exit(1)
    print(f"got {line}", end="", flush=True)
"""


@pytest.mark.slow
def test_a_process_answers_line_by_line_and_one_that_ends_is_told_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "echo_lines.py").write_text(ECHO)
    with asked("echo_lines") as first, asked("echo_lines") as second:
        first.tell("one")
        assert second.ask("two") == "got two"
        assert first.hear() == "got one"
        with pytest.raises(RuntimeError, match="echo_lines ended without an answer, exit code 1"):
            first.ask("end")
        with pytest.raises(RuntimeError, match="echo_lines ended without an answer, exit code 1"):
            first.tell("one more")
        assert second.ask("three") == "got three"


def test_a_side_names_the_packages_that_it_lacks(monkeypatch):
    monkeypatch.setattr(engines, "PACKAGES", {"other": ("msgspec", "no_such_package")})
    assert engines.missing_packages("other") == ["no_such_package"]
    assert engines.missing_packages(engines.FP32) == []


@pytest.mark.slow
def test_versions_are_made_once_for_all_benchmarks_of_a_run(monkeypatch, tmp_path):
    made = tmp_path / "made"
    monkeypatch.setenv(MADE, str(made))
    with homes(["fp32"]) as first, homes(["fp32"], 2) as second:
        assert sorted(path.name for path in made.iterdir()) == ["fp32-1", "fp32-2"]  # and nothing half made
        (one,), two = list_versions(first["fp32"]), list_versions(second["fp32"])
        assert {manifest.name for manifest in two} == {"v1", "v2"}
        assert one in two, "v1 was made anew"
        for n, filled in ((1, first), (2, second)):
            weights = version_folder(filled["fp32"], one.digest) / WEIGHTS
            (made / f"fp32-{n}" / weights.relative_to(filled["fp32"].root)).unlink()
            with homes(["fp32"], n) as next_one:
                assert len(list_versions(next_one["fp32"])) == n
                assert not version_folder(next_one["fp32"], one.digest).joinpath(WEIGHTS).exists(), "made again"
            assert weights.exists(), "a home shares its files with the next one"


def test_results_of_another_form_are_refused_with_what_to_do(tmp_path):
    results = tmp_path / "results.json"
    assert read_entries(results) == {}
    results.write_text('{"engines": {"shows": 1}}')
    with pytest.raises(SystemExit, match="delete it and run all benchmarks again"):
        read_entries(results)


@pytest.mark.slow
def test_every_benchmark_has_a_module_with_a_run():
    for name, benchmark in BENCHMARKS.items():
        assert callable(importlib.import_module(benchmark.module).run), name


@pytest.mark.parametrize(("grows", "met"), [("", "yes"), ("rss", "no"), ("uss", "no")])
def test_a_soak_judges_each_process_by_all_its_memory_and_the_pool_by_what_is_private(grows, met):
    """A twentieth in ten minutes, of the smaller process only; by private memory of both."""
    soak = Soak(600.0)
    for at in range(0, 600, 3):
        more = 1 + at / 600 / 20
        for name, pid, size in (("broker", 1, 50_000_000), ("worker-0", 2, 300_000_000)):
            rss = size * more if grows == "rss" and name == "broker" else size
            soak.samples.append(Sample(float(at), name, pid, int(rss), int(size * more if grows == "uss" else size)))
    entry_of_it = entry(*soak_findings(soak, n_callers=6).figures)
    seen = {what: is_met for what, _, _, is_met in bar_rows({"soak": entry_of_it})}
    whose = "the whole pool's private memory" if grows == "uss" else "any process's memory"
    assert seen.pop(f"growth of {whose} after the warm-up") == met
    assert set(seen.values()) == {"yes"}
