"""`enclave policy measure`: an SEV-SNP guest's launch measurement, from the files it starts with.

The firmware of the processor measures what the hypervisor puts into the guest's memory: firmware
image, hashes of kernel, initial file system and command line, and the first state of each virtual
CPU (AMD 56860, "Launch Digest"). It is computed here by `sev-snp-measure` of the VirTEE project,
the extra `measure`: nothing of it is needed to judge evidence.
"""

import struct
from pathlib import Path
from typing import Any, Final

import click

from attestation.cli.extras import DISTRIBUTION
from attestation.cli.output import emit_json, json_option
from attestation.errors import PolicyError
from attestation.evidence.sev_snp import MEASUREMENT_BYTES

_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)
_HYPERVISORS: Final = {"qemu": "QEMU", "ec2": "ec2", "gce": "gce"}
_UNUSABLE: Final = (
    ArithmeticError,
    AssertionError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""What the library raises for files that are no firmware of SEV-SNP."""


@click.command(
    epilog="""\b
Examples:
  enclave policy measure --firmware OVMF.fd --vcpus 4 --vcpu-type EPYC-Genoa \\
      --kernel vmlinuz --initrd initrd.img --append "console=ttyS0"
  enclave policy measure --firmware ovmf_x64.fd --vcpus 2 --hypervisor ec2 --json

The line goes into [sev_snp] of a policy. Firmware that hashes no kernel (--kernel is refused then)
measures itself alone, and whatever it loads is not in the measurement.
"""
)
@click.option("--firmware", type=_FILE, required=True, help="OVMF image that the guest starts.")
@click.option(
    "--vcpus", type=click.IntRange(1, 4096), required=True, help="Number of virtual CPUs."
)
@click.option("--vcpu-type", metavar="NAME", help="QEMU's name of their type, as EPYC-Genoa.")
@click.option("--kernel", type=_FILE, help="Kernel that the hypervisor starts directly.")
@click.option("--initrd", type=_FILE, help="Initial file system; needs --kernel.")
@click.option("--append", metavar="TEXT", help="Kernel command line; needs --kernel.")
@click.option(
    "--hypervisor", type=click.Choice(sorted(_HYPERVISORS)), default="qemu", show_default=True
)
@click.option(
    "--guest-features",
    type=click.IntRange(0, 0xFFFF_FFFF_FFFF_FFFF),
    default=1,
    show_default=True,
    help="SEV_FEATURES of the guest; bit 0 is SEV-SNP.",
)
@json_option
def measure(
    *, firmware: Path, vcpus: int, vcpu_type: str | None, as_json: bool, **guest: Any
) -> None:
    """Compute the launch measurement of an SEV-SNP guest."""
    if guest["kernel"] is None and (guest["initrd"] or guest["append"]):
        raise click.UsageError("--initrd and --append need --kernel")
    value = launch_measurement(firmware, vcpus=vcpus, vcpu_type=vcpu_type, **guest)
    if as_json:
        emit_json({"measurement": value})
        return
    click.echo(f'measurements = ["{value.hex()}"]')


def launch_measurement(
    firmware: Path,
    *,
    vcpus: int,
    vcpu_type: str | None,
    kernel: Path | None,
    initrd: Path | None,
    append: str | None,
    hypervisor: str,
    guest_features: int,
) -> bytes:
    """Return the measurement, or raise `PolicyError` when there is none of such files."""
    try:
        from sevsnpmeasure import guest, sev_mode, vcpu_types, vmm_types  # noqa: PLC0415 - an extra
    except ImportError as error:
        advice = f"pip install '{DISTRIBUTION}[measure]'"
        raise PolicyError(f"it needs sev-snp-measure: {advice}") from error
    signature = vcpu_types.CPU_SIGS.get(vcpu_type or "")
    if signature is None and (vcpu_type is not None or hypervisor == "qemu"):
        raise PolicyError(f"--vcpu-type is one of {', '.join(sorted(vcpu_types.CPU_SIGS))}")
    try:
        value = guest.calc_launch_digest(
            sev_mode.SevMode.SEV_SNP,
            vcpus,
            signature,
            str(firmware),
            str(kernel or ""),
            str(initrd or ""),
            append or "",
            guest_features,
            vmm_type=vmm_types.VMMType[_HYPERVISORS[hypervisor]],
        )
    except _UNUSABLE as error:
        raise PolicyError(f"{firmware}: no guest of SEV-SNP starts with it ({error})") from error
    if not isinstance(value, bytes) or len(value) != MEASUREMENT_BYTES:
        raise PolicyError("sev-snp-measure gave no launch measurement")
    return value
