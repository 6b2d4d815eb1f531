"""The source code behind a kernel, as one digest: what a client's policy can pin.

A kernel is its module and every module of the same top-level package that this one imports,
directly or not, with the packages they lie in: a change in a shared part is a change in the kernel.
So is one in `attestation.programs`, which gives patterns, parameters and expressions their meaning.
The hashes of the kernels that open and seal on a GPU are in every digest, on any machine: a worker
with another cubin announces another catalogue. What other distributions provide (NumPy, CuPy,
cuBLAS) is named with its version in the receipt instead. Modules are read as they lie on disk,
through the import system, so that an installed wheel works like a checkout.
"""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.machinery import ModuleSpec
from typing import Final

from attestation.encoding import cbor
from attestation.encoding.digests import Label, digest
from attestation.identifiers import Digest
from enclave_worker.device import cubins
from enclave_worker.errors import KernelSourceError

_LANGUAGES: Final = "attestation.programs"


class Sources:
    """The sources of modules and of what they import, each read once."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[bytes, tuple[str, ...]]] = {}

    def digest(self, name: str, module: str) -> Digest:
        """Return the digest of kernel `name`, defined in `module`, or raise `KernelSourceError`."""
        found: dict[str, bytes] = {}
        pending = [module]
        while pending:
            current = pending.pop()
            if current not in found:
                found[current], needed = self._look_up(current)
                pending.extend(needed)
        # A canonical map of name to bytes: no two sets of modules have one encoding.
        content: dict[str, cbor.Value] = {
            "kernel": name,
            "sources": {**found},
            "device": {**self._device},
        }
        return digest(Label.KERNEL_SOURCE, cbor.encode(content))

    @cached_property
    def _device(self) -> Mapping[str, str]:
        try:
            return cubins.fingerprint()
        except cubins.CubinRefusedError as error:
            raise KernelSourceError(
                f"the compiled kernels cannot be vouched for: {error}"
            ) from error

    def _look_up(self, module: str) -> tuple[bytes, tuple[str, ...]]:
        if module not in self._modules:
            spec = _find(module)
            if spec is None:
                raise KernelSourceError(f"module {module!r} cannot be found")
            source = _read(spec)
            # The `__init__` of the package above runs before the module does.
            above = [module.rpartition(".")[0]] if "." in module else []
            self._modules[module] = source, (*above, *_imports(source, spec))
        return self._modules[module]


def _find(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _read(spec: ModuleSpec) -> bytes:
    reader = getattr(spec.loader, "get_data", None)
    if reader is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise KernelSourceError(f"module {spec.name!r} has no Python source file")
    try:
        return bytes(reader(spec.origin))
    except OSError as error:
        raise KernelSourceError(f"the source of module {spec.name!r} cannot be read") from error


def _imports(source: bytes, spec: ModuleSpec) -> Iterator[str]:
    """Yield the modules of the same top-level package that `source` imports, wherever it does."""
    followed = (spec.name.partition(".")[0], _LANGUAGES)
    try:
        nodes = ast.walk(ast.parse(source))
    except (SyntaxError, ValueError) as error:
        raise KernelSourceError(f"the source of module {spec.name!r} is not Python") from error
    for node in nodes:
        for name in _imported(node, spec):
            if any(f"{name}.".startswith(f"{top}.") for top in followed) and _find(name):
                yield name


def _imported(node: ast.AST, spec: ModuleSpec) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            # `parent` of a package is the package itself, as a relative import needs it.
            base = importlib.util.resolve_name("." * node.level + base, spec.parent)
        yield base
        # `from package import module` imports a module too; `_find` drops what is not one.
        yield from (f"{base}.{alias.name}" for alias in node.names)
