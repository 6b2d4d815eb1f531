"""What names may look like: short, ASCII, and never to be mistaken for a `step.port` reference."""

import re
from typing import Final

from attestation import limits

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_KERNEL: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", re.ASCII)


def is_name(text: str) -> bool:
    """Tell whether `text` may name an input, output, port, parameter or step."""
    return len(text) <= limits.NAME_CHARACTERS and _NAME.fullmatch(text) is not None


def is_kernel_name(text: str) -> bool:
    """Tell whether `text` may name a kernel: a subject, a dot and a name."""
    return len(text) <= limits.NAME_CHARACTERS and _KERNEL.fullmatch(text) is not None
