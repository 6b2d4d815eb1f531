"""A verdict in files for others: a page for people, a token for their programs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
from attrs import frozen

from attestation.appraisal.page import page
from attestation.appraisal.result import AttestationResult
from attestation.cli.arguments import gathered
from attestation.cli.ear_tokens import EarForm, signed_ear, unsigned_ear
from attestation.cli.signing_keys import SigningKey, load_private

_FILE: Final = click.Path(path_type=Path, dir_okay=False)

_OPTIONS: Final = (
    click.option(
        "--html", "html_path", type=_FILE, metavar="FILE", help="Write the verdict as a page."
    ),
    click.option(
        "--ear",
        "ear_path",
        type=_FILE,
        metavar="FILE",
        help="Write an EAT Attestation Result; without --ear-key unsigned claims that say so.",
    ),
    click.option(
        "--ear-key",
        type=_FILE,
        metavar="FILE",
        help="Sign it with this key (PEM): Ed25519 or P-256.",
    ),
    click.option(
        "--ear-format",
        type=click.Choice([form.value for form in EarForm]),
        default=EarForm.JWT.value,
        show_default=True,
        help="What --ear-key signs.",
    ),
)


@frozen(kw_only=True)
class Report:
    """Where a verdict is written to, accepted or refused."""

    html_path: Path | None
    ear_path: Path | None
    ear_key: Path | None
    ear_format: str

    def check(self) -> None:
        """Refuse what cannot be meant before anything is judged."""
        if self.ear_key is not None and self.ear_path is None:
            raise click.UsageError("--ear-key signs what --ear writes; give both")

    def write(self, result: AttestationResult, notes: Sequence[str]) -> None:
        """Write what was asked for; raises `SigningKeyError` and `OSError`."""
        key = None if self.ear_key is None else load_private(self.ear_key)
        if self.html_path is not None:
            self.html_path.write_text(page(result, notes=notes), encoding="utf-8")
        if self.ear_path is not None:
            self.ear_path.write_bytes(_ear(result, key, EarForm(self.ear_format)))


report_options: Final = gathered("report", Report, _OPTIONS)


def _ear(result: AttestationResult, key: SigningKey | None, form: EarForm) -> bytes:
    # When the token was made, which is now; as of when was judged is among its claims.
    issued_at = int(datetime.now(UTC).timestamp())
    build = f"enclave-worker {version('enclave-worker')}"
    if key is None:
        return unsigned_ear(result, issued_at=issued_at, build=build)
    return signed_ear(result, issued_at=issued_at, build=build, key=key, form=form)
