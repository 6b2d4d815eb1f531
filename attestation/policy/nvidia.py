"""The `[gpu]` table of a policy: which GPUs and switches count, beside the CPU's own evidence."""

import re
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, boolean, item, optional, row, text
from attestation.policy.section import Section

FAMILIES: Final = ("hopper", "blackwell", "nvswitch")
ANY: Final = "any"

_DRIVER: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){1,3}")
_FIRMWARE: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")
_SERIAL: Final = re.compile(r"[0-9a-f]{2,40}")
_REQUIRED: Final = "required"
_OPTIONAL: Final = "optional"


@frozen(kw_only=True)
class GpuPolicy(Record):
    """Which devices count. None where a version or a list would be is written `"any"`.

    `firmware` lists for each accepted family the lowest VBIOS, or switch BIOS. Without
    `require_rim` or `require_ocsp` what they would show is not known, and the result says so.
    """

    required: bool = item(boolean())
    families: tuple[str, ...] = item(array(text(), limit=len(FAMILIES)))
    minimum_driver: str | None = item(optional(text()))
    minimum_firmware: tuple[tuple[str, str | None], ...] = item(
        array(row(text(), optional(text())), limit=len(FAMILIES))
    )
    devices: tuple[str, ...] | None = item(optional(array(text(), limit=limits.POLICY_ENTRIES)))
    require_rim: bool = item(boolean())
    require_ocsp: bool = item(boolean())


def read_gpu(section: Section) -> GpuPolicy:
    """Read the table, or raise `PolicyError`."""
    required = section.take_boolean("required")
    families = section.take_list("families", _family)
    driver = _version(section, "minimum_driver", _DRIVER)
    firmware = _firmware(section.take_section("minimum_firmware"), families)
    devices: tuple[str, ...] | None = None
    if section.values.get("devices") == ANY:
        section.take("devices")
    else:
        devices = tuple(sorted(section.take_list("devices", _serial)))
    rim, ocsp = _requirement(section, "rim"), _requirement(section, "ocsp")
    section.finish()
    return GpuPolicy(
        required=required,
        families=tuple(sorted(families)),
        minimum_driver=driver,
        minimum_firmware=firmware,
        devices=devices,
        require_rim=rim,
        require_ocsp=ocsp,
    )


def version_numbers(version: str, base: int) -> tuple[int, ...] | None:
    """Return the parts of a version for comparison, None when it is not written like one."""
    try:
        return tuple(int(part, base) for part in version.split("."))
    except ValueError:
        return None


def _firmware(section: Section, families: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    versions = tuple((family, _version(section, family, _FIRMWARE)) for family in sorted(families))
    section.finish()
    return versions


def _version(section: Section, key: str, form: re.Pattern[str]) -> str | None:
    value = section.take(key)
    if value == ANY:
        return None
    if not isinstance(value, str) or not form.fullmatch(value):
        raise section.error(key, 'is neither a version nor the word "any"')
    return value


def _requirement(section: Section, key: str) -> bool:
    value = section.take(key)
    if value not in (_REQUIRED, _OPTIONAL):
        raise section.error(key, f'is neither "{_REQUIRED}" nor "{_OPTIONAL}"')
    return bool(value == _REQUIRED)


def _family(value: str) -> str:
    if value not in FAMILIES:
        raise ValueError(f"{value!r} is not a family of devices ({', '.join(FAMILIES)})")
    return value


def _serial(value: str) -> str:
    if not _SERIAL.fullmatch(value):
        raise ValueError(f"{value!r} is not a device's serial number in lower-case hexadecimal")
    return value
