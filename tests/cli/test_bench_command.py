"""`enclave bench` measures what was computed and compared, and connects to nobody by accident."""

import json

import pytest
from click.testing import CliRunner

from attestation.cli.bench import BenchDisagreesError, _compare, _Size, _tensor, bench


def run(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(bench, arguments, env={"ENCLAVE_POLICY": ""} | (environment or {}))
    return result.exit_code, result.output


@pytest.mark.parametrize("size", ["0", "3", "6", "x", "1TB", "-4"])
def test_a_size_that_holds_no_float32_values_is_refused(size: str) -> None:
    status, output = run("--size", size)
    assert status == 2
    assert "--size" in output


def test_a_coordinator_without_a_policy_is_refused() -> None:
    """Its workers would have to be believed unseen."""
    status, output = run("--coordinator", "tcp://127.0.0.1:1")
    assert status == 2
    assert "--policy" in output


def test_a_coordinator_of_the_environment_needs_a_policy_too() -> None:
    status, _ = run(environment={"ENCLAVE_COORDINATOR": "tcp://127.0.0.1:1"})
    assert status == 2


def test_sizes_are_read_as_people_write_them() -> None:
    assert [_Size().convert(text, None, None) for text in ("4", "64 KiB", "1gib")] == [
        4,
        65536,
        1 << 30,
    ]


def test_a_wrong_result_is_not_a_measurement() -> None:
    x = _tensor(1024)
    _compare(2 * x + 1, x)
    with pytest.raises(BenchDisagreesError):
        _compare(2 * x, x)


@pytest.mark.scenario
def test_it_measures_a_pipeline_of_its_own() -> None:
    arguments = ["--size", "1KiB", "--rounds", "3", "--jobs", "50", "--window", "8", "--json"]
    result = CliRunner().invoke(bench, arguments, env={"ENCLAVE_POLICY": ""})
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (trip,) = document["round_trips"]
    assert (trip["bytes"], trip["rounds"]) == (1024, 3)
    assert trip["gb_per_second"] > 0
    assert document["small_jobs"]["per_second"] > 0
    assert "INSECURE" in result.stderr
