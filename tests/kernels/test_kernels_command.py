"""`enclave kernels`, and that docs/kernels.md lists what the code declares."""

import json
from pathlib import Path

import click.testing
import pytest

from attestation.programs.errors import UnknownKernelError
from enclave_worker.kernels import listing
from enclave_worker.kernels.cli import kernels
from enclave_worker.kernels.registry import BUILT_IN, Registry, installed_registry
from tests.kernels.cases import LOOSER, TOLERANCES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(kernels, arguments)


def test_the_list_names_every_kernel_and_the_digest_a_worker_would_announce() -> None:
    result = invoke()
    catalogue = installed_registry().catalogue()
    assert result.exit_code == 0
    assert all(name in result.output for name in catalogue.names)
    assert catalogue.digest().hex() in result.output


def test_json_is_one_document_with_every_digest() -> None:
    document = json.loads(invoke("--json").output)
    catalogue = installed_registry().catalogue()
    assert document["catalogue_digest"] == catalogue.digest().hex()
    assert [entry["name"] for entry in document["kernels"]] == list(catalogue.names)


@pytest.mark.parametrize("name", [k.name for k in Registry(BUILT_IN)])
def test_a_kernels_page_shows_ports_parameters_and_an_example(name: str) -> None:
    result = invoke(name)
    entry = installed_registry().catalogue().entry(name)
    assert result.exit_code == 0
    for port in (*entry.signature.inputs, *entry.signature.outputs):
        assert f"{port.name}: {port.pattern}" in result.output
    for parameter in entry.signature.parameters:
        assert listing.parameter_line(parameter) in result.output
    assert f"enclave submit {name} -i " in result.output
    assert json.loads(invoke(name, "--json").output)["source_digest"] == entry.source_digest.hex()


def test_an_unknown_kernel_is_an_error() -> None:
    assert isinstance(invoke("nn.unknown").exception, UnknownKernelError)


def test_the_page_lists_what_the_code_declares() -> None:
    """Rewrite the list with `python -m tests.kernels.write_list` after a change."""
    text = DOCS.read_text()
    assert listing.markdown(Registry(BUILT_IN).catalogue()) in text


def test_the_page_states_the_tolerances_that_are_tested() -> None:
    text = DOCS.read_text()
    for dtype, limit in TOLERANCES.items():
        assert f"| {dtype} | {limit:.0e} |" in text
    for name, limits in LOOSER.items():
        for dtype, limit in limits.items():
            assert f"| {name} | {dtype} | {limit:.0e} |" in text
