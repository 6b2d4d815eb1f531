"""Bodies for what a worker's own host answers: a hypervisor is not believed either."""

from contextlib import suppress
from pathlib import Path

import cbor2

from attestation.encoding.foreign_cbor import decode
from attestation.errors import UnavailableError
from enclave_worker.attester.configfs_tsm import ConfigfsTsm, TsmReport
from enclave_worker.attester.nitro import NitroAttester
from enclave_worker.attester.tsm import TsmAttester
from tests.attester.conftest import certificate_table, unsigned_snp_report
from tests.fuzz.bodies import REACHED
from tests.simulators.intel import Domain, intel
from tests.simulators.nitro import SimulatedNsm

REPORT_DATA = bytes(range(64))
PROVIDERS = ("sev_guest", "tdx_guest")

_LENGTH_BYTES = 2


class Kernel(ConfigfsTsm):
    """A kernel that answers with anything."""

    def __init__(self, provider: str, outblob: bytes, auxblob: bytes) -> None:
        self._answer = TsmReport(provider=provider, outblob=outblob, auxblob=auxblob)

    def provider(self) -> str:
        return self._answer.provider

    def report(self, inblob: bytes) -> TsmReport:
        return self._answer


class _Module(NitroAttester):
    """A Nitro module that answers with anything."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(Path("/dev/null"))
        self._answer = answer

    def _exchange(self, request: bytes) -> bytes:
        return self._answer


def body_kernel_report(data: bytes) -> None:
    """A provider, a report and what came beside it: Evidence that holds both, or an error."""
    if len(data) <= _LENGTH_BYTES:
        return
    provider, split = PROVIDERS[data[0] % 2], 1 + _LENGTH_BYTES
    outblob_ends = split + int.from_bytes(data[1:split], "big")
    outblob, auxblob = data[split:outblob_ends], data[outblob_ends:]
    attester = TsmAttester(Kernel(provider, outblob, auxblob), event_log=Path("/nonexistent"))
    with suppress(UnavailableError):
        body = attester.collect(REPORT_DATA)
        REACHED["kernel_report"] += 1
        assert REPORT_DATA in body


def body_nitro_answer(data: bytes) -> None:
    """What a module answers: Evidence with its very document, or an error."""
    with suppress(UnavailableError):
        body = _Module(data).collect(REPORT_DATA)
        REACHED["nitro_answer"] += 1
        assert decode(data, limit=len(data))["Attestation"]["document"] in body


def seeds_of_reports() -> list[bytes]:
    """Return what a kernel of either provider answers."""
    report, _ = unsigned_snp_report(REPORT_DATA, 0)
    quote = intel().td_quote(Domain(report_data=REPORT_DATA))
    return [
        bytes([number]) + len(outblob).to_bytes(_LENGTH_BYTES, "big") + outblob + auxblob
        for number, outblob, auxblob in (
            (0, report, b""),
            (0, report, certificate_table(b"one", b"two")),
            (1, quote, b""),
        )
    ]


def seeds_of_answers() -> list[bytes]:
    """Return what a module answers."""
    document = SimulatedNsm().document(REPORT_DATA)
    return [cbor2.dumps({"Attestation": {"document": document}})]
