"""The kernels that this installation has: ours, and those of packages that add their own.

A package adds kernels by naming a module in the entry-point group `enclave_worker.kernels`; every
`Kernel` at that module's top level is registered. Anything wrong with any of them refuses the whole
registry: a worker that left one out silently would announce another catalogue than it was given.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Final, Self

from attestation.programs.catalogue import Catalogue, CatalogueEntry
from attestation.programs.errors import UnknownKernelError
from enclave_worker.errors import DuplicateKernelError, RegistryError
from enclave_worker.kernels.sources import Sources
from enclave_worker.kernels.spec import Kernel

GROUP: Final = "enclave_worker.kernels"
BUILT_IN: Final = tuple(
    f"enclave_worker.kernels.{subject}"
    for subject in (
        *("conv", "convert", "expression", "linalg", "linalg_batched", "ml", "nn", "quant"),
        *("signal", "stats"),
    )
)

OPTIONAL: Final[Mapping[str, str]] = {"enclave_worker.kernels.onnx": "onnxruntime"}
"""Ours that need a library of an extra: they are there where the library is."""


class Registry:
    """Kernels by name. Building one imports their modules and raises `RegistryError`s."""

    def __init__(self, modules: Iterable[str | ModuleType]) -> None:
        self._kernels: dict[str, Kernel] = {}
        for module in modules:
            for kernel in _kernels_of(module):
                self._add(kernel)

    @classmethod
    def installed(cls) -> Self:
        """Return the built-in kernels, those of extras that are here, and those of packages."""
        added = sorted(point.value for point in entry_points(group=GROUP))
        optional = [module for module, needed in OPTIONAL.items() if find_spec(needed)]
        return cls([*BUILT_IN, *optional, *added])

    def __iter__(self) -> Iterator[Kernel]:
        return iter(sorted(self._kernels.values(), key=lambda kernel: kernel.name))

    def __len__(self) -> int:
        return len(self._kernels)

    def __getitem__(self, name: str) -> Kernel:
        try:
            return self._kernels[name]
        except KeyError:
            raise UnknownKernelError(f"there is no kernel {name!r}") from None

    def catalogue(self) -> Catalogue:
        """Return every signature with the digest of the source that keeps it."""
        sources = Sources()
        entries = (
            CatalogueEntry(
                signature=kernel.signature,
                source_digest=sources.digest(kernel.name, kernel.module),
            )
            for kernel in self
        )
        return Catalogue.of(entries)

    def _add(self, kernel: Kernel) -> None:
        present = self._kernels.setdefault(kernel.name, kernel)
        if present is not kernel:
            raise DuplicateKernelError(
                f"{kernel.name} is defined in {present.module} and in {kernel.module}"
            )


@cache
def installed_registry() -> Registry:
    """Return `Registry.installed()`, built once per process."""
    return Registry.installed()


def _kernels_of(module: str | ModuleType) -> list[Kernel]:
    loaded = _load(module) if isinstance(module, str) else module
    found = [value for value in vars(loaded).values() if isinstance(value, Kernel)]
    if not found:
        raise RegistryError(f"module {loaded.__name__} declares no kernel")
    return found


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        # Whatever a package's module raises, the answer is the same, and it names the package.
        raise RegistryError(f"kernel module {name} cannot be imported: {error}") from error
