"""Refusals and failures travel through the coordinator: they name codes and quote nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from zmq.utils import z85

from attestation.encoding import cbor
from attestation.programs.program import Program, Step
from coordinator.keys import AllowList
from enclave_worker.admission import Terms
from enclave_worker.buffers import BufferPool
from enclave_worker.device.backend import select_device
from enclave_worker.engine import ProgramEngine
from enclave_worker.kernels.registry import installed_registry
from enclave_worker.keystore import Keystore
from enclave_worker.refusals import JobRefusedError
from enclave_worker.sessions import SessionTable
from tests.simulators.markers import Forms, Marker, Word, all_forms, found_in
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient, SimulatedJob

MARKER, WORD, OTHER = Marker.draw("number"), Word.draw("word"), Word.draw("other word")
FORMS: Forms = all_forms(MARKER, WORD, OTHER)


def program(*, kernel: str = "nn.gelu", reads: str = "x", port: str = "x") -> Program:
    step = Step(id=WORD.text, kernel=kernel, inputs={port: reads})
    return Program.of(inputs=["x"], steps=[step], outputs={"y": f"{WORD.text}.y"})


def job(workshop: Workshop, client: SimulatedClient, **changes: Any) -> SimulatedJob:
    values: dict[str, Any] = {"program": program(), "arrays": {"x": MARKER.array()}}
    return workshop.job(client, "nn.gelu", **(values | changes))


def with_body(job: SimulatedJob, **changes: bytes) -> SimulatedJob:
    """Seal and sign another body than the SDK would ever make."""
    job.body = attrs.evolve(job.body, **changes)
    job.change_header(parameters_commitment=job.body.commitment())
    return job


def parameters(value: object, name: str = "approximate", step: str = WORD.text) -> Any:
    return lambda shop, client: job(shop, client, parameters={step: {name: value}})


BAD: dict[str, Callable[[Workshop, SimulatedClient], SimulatedJob]] = {
    "a choice that is none": parameters(OTHER.text),
    "a number for a choice": parameters(MARKER.number()),
    "a parameter that is unknown": parameters(MARKER.number(), name=OTHER.text),
    "parameters of no step": parameters(MARKER.number(), step=OTHER.text),
    "a kernel that is unknown": lambda shop, client: job(
        shop, client, program=program(kernel=f"{OTHER.text}.{WORD.text}")
    ),
    "a reference to no input": lambda shop, client: job(
        shop, client, program=program(reads=OTHER.text)
    ),
    "a reference to no step": lambda shop, client: job(
        shop, client, program=program(reads=f"{OTHER.text}.y")
    ),
    "a port that is unknown": lambda shop, client: job(
        shop, client, program=program(port=OTHER.text)
    ),
    "a shape that does not fit": lambda shop, client: job(
        shop, client, program=program(kernel="linalg.svd", port="a")
    ),
    "parameters that are no CBOR": lambda shop, client: with_body(
        job(shop, client), parameters=b"\xff" + MARKER.array().tobytes()
    ),
    "parameters that are a text": lambda shop, client: with_body(
        job(shop, client), parameters=cbor.encode(OTHER.text)
    ),
    "parameters in another order": lambda shop, client: with_body(
        job(shop, client), parameters=b"\xa2\x62zz\xa0\x78\x18" + OTHER.text.encode() + b"\xa0"
    ),
}


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    registry, pool = installed_registry(), BufferPool(keep_bytes=1 << 26)
    return Workshop(
        registry=registry,
        catalogue=registry.catalogue(),
        keystore=Keystore(),
        sessions=SessionTable(),
        pool=pool,
        engine=ProgramEngine(select_device("cpu"), registry, pool=pool),
        terms=Terms(max_job_bytes=1 << 26),
    )


@pytest.mark.parametrize("case", list(BAD))
def test_a_workers_refusal_quotes_no_parameter_no_name_and_no_number(
    workshop: Workshop, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a worker finds in a sealed body that it then refuses stays in the worker."""
    bad = BAD[case](workshop, workshop.connect())
    with caplog.at_level("DEBUG"), pytest.raises(JobRefusedError) as raised:
        workshop.admit(bad)
    assert found_in(raised.value.refusal().to_bytes(), FORMS) == []
    assert found_in(caplog.text.encode(), FORMS) == []


@pytest.mark.parametrize("case", list(BAD))
def test_what_is_refused_really_held_a_secret(workshop: Workshop, case: str) -> None:
    """The control of the test above."""
    bad = BAD[case](workshop, workshop.connect())
    assert found_in(bad.body.to_bytes(), FORMS)


def test_the_names_that_an_operator_gives_to_clients_are_not_even_kept(tmp_path: Path) -> None:
    """So no refusal, listing or log line can name a client to another one."""
    path = tmp_path / "allowed"
    key = bytes(range(32))
    path.write_text(f"{z85.encode(key).decode()} {WORD.text}\n")
    allowed = AllowList(path)
    assert allowed.admitted == {key}
    held = repr([getattr(allowed, name) for name in vars(allowed)])
    assert WORD.text not in held
