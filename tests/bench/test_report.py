"""What a run found is told as it was found: ratios of one heat, goals not met, things left out."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from attestation import limits
from tests.bench import report
from tests.bench.goals import GOALS, Goal
from tests.bench.instructions import FEW, MANY, STAGES, per_stage
from tests.bench.plots import figures
from tests.bench.results import NAMES, Results
from tests.bench.spread import Spread
from tests.bench.svg import Bar, bars, lines, number_of

MIB64 = 64 * limits.MIB


def trip(heat: str, size: int, **seconds: list[float]) -> dict[str, Any]:
    """Return round trips; `sealed__streaming` stands for `sealed:streaming`."""
    series = {
        name.replace("__", ":"): {
            "rounds": values,
            "count": len(values),
            "p50": values[0],
            "p99": max(values),
        }
        for name, values in seconds.items()
    }
    cpu = {key: {"client": 1.0, "worker": 3.0} for key in series}
    kind = {"heat": heat, "what": "round_trip", "bytes": size, "unit": "seconds"}
    return kind | {"series": series, "cpu_seconds_per_gb": cpu}


def jobs(heat: str, window: int, **rates: list[float]) -> dict[str, Any]:
    """Return jobs per second."""
    series = {name.replace("__", ":"): {"rounds": values} for name, values in rates.items()}
    cpu = {key: {"client": 10.0} for key in series}
    kind = {"heat": heat, "what": "jobs", "bytes": limits.KIB, "window": window}
    return kind | {"series": series, "cpu_microseconds_per_job": cpu}


def results(*measurements: dict[str, Any], **changes: Any) -> Results:
    """Return a run on a quiet machine."""
    spread = Spread.of([8.0]).to_map()
    machine = {
        "processor": "a processor",
        "vaes": True,
        "cores": 2,
        "memory_gib": 24,
        "system": "Linux",
        "python": "3.11",
        "libraries": {"pyzmq": "27"},
        "date": "2026-01-31",
        "load_before": changes.pop("load", 0.1),
        "load_after": 2.0,
        "seconds": 60,
    }
    document = {
        "machine": machine,
        "skipped": {},
        "aead": [{"bytes": limits.MIB, "threads": 1, "gb_s": spread}],
        "measurements": list(measurements),
    }
    return Results(document | changes)


def goal(work: str) -> Goal:
    """Return the goal whose text begins so."""
    (found,) = (each for each in GOALS if each.work.startswith(work))
    return found


def test_a_goal_compares_two_systems_of_the_same_heat() -> None:
    """The sealed figure of another heat, measured at another time, does not count."""
    run = results(
        trip("limit", MIB64, sealed__streaming=[0.5, 0.5], plaintext__stream=[0.1, 0.1]),
        trip("grpc", MIB64, sealed__streaming=[0.1, 0.1], grpc__direct=[0.3, 0.3]),
    )
    found = goal("64 MiB, sealed ÷ gRPC TLS direct").measure(run)
    assert found is not None
    assert found.median == pytest.approx(3.0)


def test_what_was_not_measured_is_not_met() -> None:
    text = report.markdown(results(), "figures")
    assert text.count("| not measured |") == len(GOALS)
    assert "| met |" not in text


def test_a_goal_that_is_missed_is_said_to_be() -> None:
    run = results(trip("limit", MIB64, sealed__streaming=[0.2, 0.2], plaintext__stream=[0.1, 0.1]))
    (line,) = (
        line
        for line in report.markdown(run, "figures").splitlines()
        if line.startswith("| 64 MiB, sealed with receipt ÷ plaintext, streamed")
    )
    assert "0.50 (0.50 to 0.50)" in line
    assert "**not met**" in line


@pytest.mark.parametrize(
    ("bare", "reached"), [((0.105, 0.105), True), ((0.105, 0.13), True), ((0.125, 0.125), False)]
)
def test_a_goal_that_the_bare_pipeline_misses_is_out_of_reach(
    bare: tuple[float, float], reached: bool
) -> None:
    run = results(
        trip(
            "limit",
            MIB64,
            sealed__streaming=[0.2, 0.2],
            plaintext__stream=[0.1, 0.1],
            plaintext__bare=list(bare),
        )
    )
    text = report.markdown(run, "figures")
    assert ("**not met**, out of reach here" in text) is not reached


def test_a_latency_goal_is_met_from_below() -> None:
    latency = goal("1 KiB latency, receipt in line")
    slow = results(
        trip("limit", limits.KIB, sealed__streaming=[2.0, 2.0], plaintext__stream=[1.0, 1.0])
    )
    found = latency.measure(slow)
    assert found is not None
    assert found.median == 2.0
    assert not latency.met(found)
    assert latency.met(Spread.of([1.2]))


def test_each_system_is_judged_by_its_best_window() -> None:
    run = results(
        jobs("flight", 1, sealed__map=[10.0, 10.0], flight__exchange=[50.0, 50.0]),
        jobs("flight", 64, sealed__map=[800.0, 800.0], flight__exchange=[100.0, 100.0]),
        jobs("flight", 512, sealed__map=[700.0, 700.0], flight__exchange=[40.0, 40.0]),
    )
    found = goal("1 KiB jobs/s, sealed map ÷ Arrow").measure(run)
    assert found is not None
    assert found.median == 8.0


def test_a_busy_machine_is_mentioned() -> None:
    assert "Others used this machine" in report.markdown(results(load=3.0), "figures")
    assert "Others used this machine" not in report.markdown(results(), "figures")


def test_what_others_used_during_the_run_is_told() -> None:
    """A load that begins after the run began is seen too."""
    busy = {"heat": "limit", "what": "others", "cores": 0.75}
    text = report.markdown(results(busy), "figures")
    assert "0.75 to 0.75 of 2 cores" in text
    assert "Others used this machine" in text


def test_what_was_skipped_is_told_with_the_reason() -> None:
    text = report.markdown(results(skipped={"ray": "cannot be installed: no wheel"}), "figures")
    assert "Skipped: ray (cannot be installed: no wheel)." in text


def test_every_table_has_the_same_cells_in_every_row() -> None:
    run = results(
        trip("limit", limits.KIB, sealed__streaming=[2.0, 3.0], plaintext__stream=[1.0, 1.0]),
        trip("limit", MIB64, sealed__streaming=[0.2, 0.2], plaintext__stream=[0.1, 0.1]),
        trip("ray", MIB64, sealed__streaming=[0.2, 0.2], ray__actor=[0.1, 0.1]),
        trip("1 core", MIB64, sealed__streaming=[0.2, 0.2], plaintext__stream=[0.1, 0.1]),
        jobs("limit", 1, sealed__map=[10.0, 10.0], plaintext__single=[20.0, 20.0]),
        jobs("limit", 512, sealed__map=[10.0, 10.0]),
        {
            "heat": "limit",
            "what": "memory",
            "bytes": 0,
            "system": "sealed",
            "roles": {"client": {"now": limits.MIB, "peak": limits.MIB}},
        },
        appraisal={"tdx": {"cold": 10.0, "warm": 5.0}},
        instructions=[{"work": "one job", "instructions": 1000.0}],
    )
    rows = [line for line in report.markdown(run, "f").splitlines() if line.startswith("|")]
    widths = [row.count(" |") for row in rows]
    for above, below, row in zip(widths, widths[1:], rows[1:], strict=False):
        begins_table = rows[rows.index(row) - 1].startswith("| ---") or "---" in row
        assert above == below or not begins_table


def test_writing_the_page_leaves_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Ours\n\n{report.BEGIN}\nold\n{report.END}\n\nAfter.\n")
    run = results(trip("limit", MIB64, sealed__streaming=[0.2, 0.2], plaintext__stream=[0.1, 0.1]))
    report.write_docs(run.document, page)
    text = page.read_text()
    assert text.startswith("# Ours\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert (tmp_path / "figures" / "round-trip-64-mib.svg").is_file()


def test_every_series_that_a_goal_names_has_a_name_for_people() -> None:
    keys = {goal.ours for goal in GOALS} | {goal.bare for goal in GOALS if goal.bare is not None}
    assert keys <= NAMES.keys()


@pytest.mark.parametrize("name", ["round-trip-64-mib.svg", "jobs-per-second.svg"])
def test_charts_are_well_formed_and_show_every_series(name: str) -> None:
    run = results(
        trip("limit", MIB64, sealed__streaming=[0.2, 0.3], plaintext__stream=[0.1, 0.1]),
        jobs("limit", 1, sealed__map=[10.0, 10.0], plaintext__stacks=[2e5, 2e5]),
        jobs("limit", 512, sealed__map=[9e4, 9e4], plaintext__stacks=[3e5, 3e5]),
    )
    text = figures(run)[name]
    root = ET.fromstring(text)  # noqa: S314 - our own text
    shown = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    keys = ("sealed:streaming", "plaintext:stream")
    if name.startswith("jobs"):
        keys = ("sealed:map", "plaintext:stacks")
    assert {NAMES[key] for key in keys} <= shown


def test_labels_are_text_and_never_markup() -> None:
    chart = bars("a < b", [Bar(label="<script>", value=1, low=1, high=2)], unit="&")
    assert "<script>" not in chart
    ET.fromstring(chart)  # noqa: S314 - our own text


def test_a_longer_bar_is_drawn_longer() -> None:
    rows = [
        Bar(label=name, value=value, low=value, high=value) for name, value in (("a", 1), ("b", 4))
    ]
    root = ET.fromstring(bars("t", rows, unit=""))  # noqa: S314 - our own text
    short, long = (
        float(element.attrib["width"]) for element in root.iter("{http://www.w3.org/2000/svg}rect")
    )
    assert long == pytest.approx(4 * short, rel=0.01)


def test_no_two_lines_look_alike() -> None:
    series = {str(number): [(1.0, 5.0), (2.0, 6.0)] for number in range(20)}
    root = ET.fromstring(lines("t", series, x_title="x", y_title="y"))  # noqa: S314
    looks = [
        (element.attrib["stroke"], element.attrib["stroke-dasharray"])
        for element in root.iter("{http://www.w3.org/2000/svg}polyline")
    ]
    assert len(set(looks)) == 20


def test_a_line_of_one_point_is_drawn() -> None:
    chart = lines("t", {"a": [(1.0, 5.0)]}, x_title="x", y_title="y")
    ET.fromstring(chart)  # noqa: S314 - our own text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (12.345, "12.3"), (123456.0, "123,000")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number_of(value) == text


def test_instructions_of_a_stage_are_what_it_adds() -> None:
    """Python's own start, in both counts, falls out."""
    start, cost = 1_000_000, {"seal": 100, "run": 350, "open": 600}
    counts = {
        (stage, times): start + cost[stage] * times for stage in STAGES for times in (FEW, MANY)
    }
    assert [entry["instructions"] for entry in per_stage(counts)] == [100, 250, 250]
