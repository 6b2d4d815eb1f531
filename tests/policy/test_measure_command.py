"""`enclave policy measure`: the value goes with every file and setting that is measured."""

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from click.testing import CliRunner

from attestation.cli import policy_measure
from attestation.cli.policy import policy
from attestation.errors import PolicyError

pytest.importorskip("sevsnpmeasure", reason="sev-snp-measure is not installed")

GIB_4: Final = 1 << 32
PAGE: Final = 4096
HASHES_GPA, CPUID_GPA, SECRETS_GPA = 0x810000, 0x80E000, 0x80D000
TABLE: Final = {
    "00f771de-1a7e-4fcb-890e-68c77e2fb44e": struct.pack("<I", 0xFFFF_F000),  # first instruction
    "7255371f-3a3b-4b04-927b-1da6efa8d454": struct.pack("<II", HASHES_GPA + 0xC00, 0x400),
}
SECTIONS: Final = [(SECRETS_GPA, PAGE, 2), (CPUID_GPA, PAGE, 3), (HASHES_GPA, PAGE, 0x10)]


def firmware(sections: list[tuple[int, int, int]] = SECTIONS, fill: bytes = b"\xf4") -> bytes:
    """Return an image with the tables that OVMF has for SEV-SNP, and nothing that runs."""
    metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(sections), 1, len(sections))
    metadata += b"".join(struct.pack("<III", *section) for section in sections)
    size, metadata_from_end = 2 * PAGE, PAGE
    entries = TABLE | {"dc886566-984a-4798-a75e-5585a7bf67cc": struct.pack("<I", metadata_from_end)}
    table = b"".join(
        data + struct.pack("<H", len(data) + 18) + UUID(guid).bytes_le
        for guid, data in entries.items()
    )
    footer = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    table += struct.pack("<H", len(table) + 18) + footer
    image = bytearray(fill * size)
    image[-metadata_from_end : -metadata_from_end + len(metadata)] = metadata
    image[-32 - len(table) : -32] = table
    return bytes(image)


class Launch:
    """AMD 56860, PAGE_INFO: each page extends the digest of all before it."""

    def __init__(self) -> None:
        self.digest = bytes(48)

    def page(self, kind: int, gpa: int, contents: bytes) -> None:
        info = self.digest + contents + struct.pack("<HBB", 0x70, kind, 0) + bytes(4)
        self.digest = hashlib.sha384(info + struct.pack("<Q", gpa)).digest()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    for name, data in {
        "OVMF.fd": firmware(),
        "other.fd": firmware(fill=b"\x90"),
        "kernel": b"a kernel",
        "initrd": b"a file system",
    }.items():
        (tmp_path / name).write_bytes(data)
    return {
        "firmware": tmp_path / "OVMF.fd",
        "vcpus": 2,
        "vcpu-type": "EPYC-Genoa",
        "kernel": tmp_path / "kernel",
        "initrd": tmp_path / "initrd",
        "append": "console=ttyS0",
    }


def run(options: dict[str, Any], *more: str) -> str:
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    result = CliRunner().invoke(policy, ["measure", *arguments, *more])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_line_is_one_of_a_policy(files: dict[str, Any]) -> None:
    value = json.loads(run(files, "--json"))["measurement"]
    assert len(bytes.fromhex(value)) == 48
    assert run(files) == f'measurements = ["{value}"]\n'


def test_it_is_what_the_tool_by_itself_computes(files: dict[str, Any]) -> None:
    code = "from sevsnpmeasure.cli import main; main()"
    options = {("ovmf" if name == "firmware" else name): files[name] for name in files}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-c", code, "--mode", "snp", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run(files, "--json"))["measurement"] == done.stdout.strip()


def test_pages_are_chained_as_the_specification_has_it(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the state of the virtual CPUs, computed a second time."""
    vmsas: list[bytes] = []
    from sevsnpmeasure import vmsa  # noqa: PLC0415 - after the skip

    pages = vmsa.VMSA.pages

    def watched(self: Any, vcpus: int) -> Any:
        for page in pages(self, vcpus):
            vmsas.append(page)
            yield page

    monkeypatch.setattr(vmsa.VMSA, "pages", watched)
    bare = {name: files[name] for name in ("firmware", "vcpus", "vcpu-type")}
    value = json.loads(run(bare, "--json"))["measurement"]
    launch, image = Launch(), firmware()
    for offset in range(0, len(image), PAGE):
        page = hashlib.sha384(image[offset : offset + PAGE]).digest()
        launch.page(1, GIB_4 - len(image) + offset, page)
    for gpa, kind in ((SECRETS_GPA, 5), (CPUID_GPA, 6), (HASHES_GPA, 3)):
        launch.page(kind, gpa, bytes(48))
    for page in vmsas:
        launch.page(2, 0xFFFF_FFFF_F000, hashlib.sha384(page).digest())
    assert len(vmsas) == 2
    assert value == launch.digest.hex()


def test_whatever_is_measured_changes_it(files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "kernel2").write_bytes(b"another kernel")
    changes: list[dict[str, Any]] = [
        {},
        {"firmware": tmp_path / "other.fd"},
        {"vcpus": 3},
        {"vcpu-type": "EPYC-Milan"},
        {"kernel": tmp_path / "kernel2"},
        {"initrd": tmp_path / "kernel2"},
        {"append": "console=ttyS1"},
        {"hypervisor": "ec2"},
        {"guest-features": 5},
    ]
    values = {run(files | change) for change in changes}
    assert len(values) == len(changes)


def test_a_kernel_that_the_firmware_does_not_hash_is_refused(
    files: dict[str, Any], tmp_path: Path
) -> None:
    """Else the policy would name a measurement that any kernel has."""
    (tmp_path / "plain.fd").write_bytes(firmware(SECTIONS[:2]))
    with pytest.raises(PolicyError, match="no guest of SEV-SNP"):
        run(files | {"firmware": tmp_path / "plain.fd"})


@pytest.mark.parametrize("image", [b"", b"\0" * 4096, bytes(range(256)) * 16])
def test_what_is_no_firmware_is_refused(
    files: dict[str, Any], image: bytes, tmp_path: Path
) -> None:
    (tmp_path / "noise.fd").write_bytes(image)
    with pytest.raises(PolicyError, match="no guest of SEV-SNP"):
        run(files | {"firmware": tmp_path / "noise.fd"})


@pytest.mark.parametrize("change", [{"vcpu-type": "Z80"}, {"vcpu-type": None}])
def test_a_type_of_cpu_that_is_unknown_is_refused(
    files: dict[str, Any], change: dict[str, Any]
) -> None:
    given = {name: value for name, value in (files | change).items() if value is not None}
    with pytest.raises(PolicyError, match="EPYC-Turin"):
        run(given)


def test_a_command_line_without_a_kernel_is_wrong_usage(files: dict[str, Any]) -> None:
    given = {name: files[name] for name in ("firmware", "vcpus", "vcpu-type", "append")}
    arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    assert CliRunner().invoke(policy, ["measure", *arguments]).exit_code == 2


def test_who_lacks_the_extra_is_told_its_name(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sevsnpmeasure", None)
    with pytest.raises(PolicyError, match=r"enclave-worker\[measure\]"):
        run(files)


def test_a_value_of_another_length_is_not_written_into_a_policy(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sevsnpmeasure import guest  # noqa: PLC0415 - after the skip

    monkeypatch.setattr(guest, "calc_launch_digest", lambda *_, **__: b"short")
    with pytest.raises(PolicyError):
        policy_measure.launch_measurement(
            files["firmware"],
            vcpus=1,
            vcpu_type="EPYC",
            kernel=None,
            initrd=None,
            append=None,
            hypervisor="qemu",
            guest_features=1,
        )
