"""`enclave identity`: what a client's policy has to know of this machine's TPM, read before use."""

from typing import Any, Final

import click

from attestation.cli.output import emit_json, json_option
from enclave_worker.attester.tpm import DEFAULT_PCRS, TpmAttester, TpmIdentity
from enclave_worker.pcrs import pcrs_option

_EPILOG: Final = """\b
Examples:
  enclave identity
  enclave identity --tpm-pcrs 0,2,4,7,11 --json
  enclave identity --tpm-tcti swtpm:host=127.0.0.1,port=2321

\b
Run it on a machine that you know to be in the state you want, and give the output to those who
write policies. What is printed is what this TPM says today; nothing vouches for it but you.

Exit status: 0 printed, 2 wrong usage, 3 no TPM answers.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--tpm-tcti", metavar="TCTI", help="How to reach the TPM, such as device:/dev/tpmrm0."
)
@pcrs_option
@json_option
def identity(
    tpm_tcti: str | None,
    tpm_pcrs: tuple[int, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print this TPM's attestation key and PCR values, as a policy names them."""
    attester = TpmAttester(tcti=tpm_tcti, pcrs=tpm_pcrs or DEFAULT_PCRS)
    try:
        found = attester.identity()
    finally:
        attester.close()
    if as_json:
        emit_json(_document(found))
    else:
        click.echo(_policy_tables(found))


def _document(found: TpmIdentity) -> dict[str, Any]:
    return {
        "attestation_key": f"sha256:{found.key_digest.hex()}",
        "pcr_bank": found.bank.value,
        "pcrs": {str(index): value.hex() for index, value in found.pcrs.items()},
    }


def _policy_tables(found: TpmIdentity) -> str:
    lines = [
        "[tpm]",
        f'pcr_bank = "{found.bank.value}"',
        f'attestation_keys = ["sha256:{found.key_digest.hex()}"]',
        "",
        "[tpm.pcrs]",
        *(f'{index} = ["{value.hex()}"]' for index, value in found.pcrs.items()),
    ]
    return "\n".join(lines)
