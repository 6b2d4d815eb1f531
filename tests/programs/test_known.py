"""What a catalogue implies is not parsed again, and is nothing else than what would be parsed."""

import pytest

from attestation.encoding.digests import Label, digest
from attestation.errors import DecodeError
from attestation.programs.catalogue import Catalogue
from attestation.programs.known import KnownPrograms
from attestation.programs.program import Program
from enclave_worker.kernels.registry import Registry


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Registry.installed().catalogue()


def test_the_program_of_each_kernel_is_what_its_bytes_say(catalogue: Catalogue) -> None:
    known = KnownPrograms(catalogue)
    for entry in catalogue.entries:
        program = Program.single(entry.signature)
        data = program.to_bytes()
        found = known.read(data, digest(Label.PROGRAM, data))
        assert found == Program.from_bytes(data) == program
        assert known.read(data, digest(Label.PROGRAM, data)) is found


def test_another_program_is_parsed(catalogue: Catalogue) -> None:
    signature = catalogue.entries[0].signature
    single = Program.single(signature)
    (step,) = single.steps
    renamed = Program.of(
        inputs=single.inputs,
        steps=[type(step)(id="other", kernel=step.kernel, inputs=step.inputs)],
        outputs={name: f"other.{name}" for name in single.outputs},
    )
    data = renamed.to_bytes()
    assert KnownPrograms(catalogue).read(data, digest(Label.PROGRAM, data)) == renamed


def test_what_is_no_program_is_refused(catalogue: Catalogue) -> None:
    data = b"no program"
    with pytest.raises(DecodeError):
        KnownPrograms(catalogue).read(data, digest(Label.PROGRAM, data))
