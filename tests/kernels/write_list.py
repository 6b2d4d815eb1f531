"""Rewrite the generated parts of docs/kernels.md: `python -m tests.kernels.write_list`."""

import re
from pathlib import Path

from enclave_worker.kernels.listing import markdown
from enclave_worker.kernels.registry import BUILT_IN, Registry
from tests.kernels.cases import LOOSER, TOLERANCES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"


def table() -> str:
    """The tolerances as two Markdown tables."""
    lines = ["| dtype of the output | tolerance |", "|---|---|"]
    lines += [f"| {dtype} | {limit:.0e} |" for dtype, limit in TOLERANCES.items()]
    lines += ["", "| kernel | dtype | tolerance |", "|---|---|---|"]
    lines += [
        f"| {name} | {dtype} | {limit:.0e} |"
        for name, limits in LOOSER.items()
        for dtype, limit in limits.items()
    ]
    return "\n".join(lines) + "\n"


def rewrite(text: str, part: str, body: str) -> str:
    """Put `body` between the two comments that enclose `part`."""
    begin, end = f"<!-- begin {part} -->", f"<!-- end {part} -->"
    pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n\n{body}\n{end}", text)


if __name__ == "__main__":
    page = DOCS.read_text()
    page = rewrite(page, "tolerances", table())
    DOCS.write_text(rewrite(page, "kernels", markdown(Registry(BUILT_IN).catalogue())))
