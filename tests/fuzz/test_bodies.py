"""Every fuzzing body on many inputs near its seeds; and that no format has been left out."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attestation
import coordinator
import enclave_worker
from attestation.encoding.record import Record
from attestation.policy.azure_vtpm import AzureSnpVtpmPolicy, AzureTdxVtpmPolicy
from attestation.policy.intel import IntelPolicy
from attestation.policy.nitro import NitroPolicy
from attestation.policy.nvidia import GpuPolicy
from attestation.policy.policy import CataloguePolicy, EvidencePolicy, KeyPolicy, Policy
from attestation.policy.sev_snp import SevSnpPolicy
from attestation.policy.sgx import SgxPolicy
from attestation.policy.tdx import TdxPolicy
from attestation.policy.tpm import PcrPolicy, TpmPolicy
from tests.fuzz.bodies import REACHED, RECORDS
from tests.fuzz.corpus import seeds
from tests.fuzz.registry import BODIES

EXAMPLES = {
    "coordinator": 25,
    "client": 40,
    "executor": 25,
    "admission": 40,
    "tensor_opener": 40,
    "worker_runtime": 25,
}
"""Where one input takes milliseconds; elsewhere there are more."""

ONLY_WRITTEN = {
    AzureSnpVtpmPolicy,
    AzureTdxVtpmPolicy,
    CataloguePolicy,
    EvidencePolicy,
    GpuPolicy,
    IntelPolicy,
    KeyPolicy,
    NitroPolicy,
    PcrPolicy,
    Policy,
    SevSnpPolicy,
    SgxPolicy,
    TdxPolicy,
    TpmPolicy,
}
"""Records that are digested and never parsed: a policy comes from TOML (`body_policy`)."""

each_body = pytest.mark.parametrize("name", sorted(BODIES))


@st.composite
def near(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """Bytes that share much with a valid input: a few of them replaced, inserted or cut."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                data[place:place] = draw(st.binary(min_size=1, max_size=8))
            case 2:
                del data[place : place + draw(st.integers(1, 8))]
            case _:
                data += draw(st.binary(min_size=1, max_size=40))
    return bytes(data)


@each_body
def test_any_bytes_are_handled_as_documented(name: str) -> None:
    samples = seeds(name)

    @settings(max_examples=EXAMPLES.get(name, 100))
    @given(near(samples) | st.binary(max_size=200))
    def search(data: bytes) -> None:
        BODIES[name](data)

    search()


@each_body
def test_the_seeds_come_past_the_parser(name: str) -> None:
    """A corpus that nothing accepts any more would let a fuzzer search at the door."""
    for seed in seeds(name):
        before = REACHED[name]
        BODIES[name](seed)
        assert REACHED[name] > before or name in FIRST_SEED_COUNTS, seed
    assert REACHED[name]


FIRST_SEED_COUNTS = {"admission", "executor", "npz", "client", "coordinator", "worker_runtime"}
"""Bodies with seeds that are meant to be refused, besides those that are not."""


def test_every_record_of_the_project_is_fuzzed() -> None:
    fuzzed = {kind for group in RECORDS.values() for kind in group}
    declared = {kind for kind in every_record() if kind not in ONLY_WRITTEN}
    assert declared - fuzzed == set()


@each_body
def test_a_body_is_one_that_the_others_can_call(name: str) -> None:
    """The three drivers know a body as a function of bytes; it returns nothing to look at."""
    body: Callable[[bytes], object] = BODIES[name]
    assert body(b"") is None


def every_record() -> set[type[Record]]:
    for package in (attestation, coordinator, enclave_worker):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not needs_hardware(module.name):
                importlib.import_module(module.name)
    found, new = set(), {Record}
    while new:
        new = {below for kind in new for below in kind.__subclasses__()} - found
        found |= new
    return {kind for kind in found if kind.__module__.split(".")[0] in PACKAGES}


PACKAGES = {"attestation", "coordinator", "enclave_worker"}


def needs_hardware(name: str) -> bool:
    return name in ("enclave_worker.attester.tpm", "enclave_worker.device.gpu")


def test_no_module_that_is_left_out_declares_a_record() -> None:
    for name in ("attester/tpm.py", "device/gpu.py"):
        text = (Path(enclave_worker.__path__[0]) / name).read_text()
        assert "Record" not in text.replace("EvidenceRecord", "")
