"""Which kernels there are, and that their digests cover every line that gives them meaning."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attestation.errors import DecodeError
from attestation.programs.catalogue import Catalogue
from attestation.programs.errors import UnknownKernelError
from enclave_worker.errors import DuplicateKernelError, KernelSourceError, RegistryError
from enclave_worker.kernels import registry
from enclave_worker.kernels.registry import BUILT_IN, Registry
from enclave_worker.kernels.sources import Sources
from enclave_worker.kernels.spec import kernel

NAMES = (
    "convert.from_bfloat16 convert.to_bfloat16 expr.map linalg.cholesky linalg.eigh linalg.lstsq "
    "linalg.matmul linalg.pca linalg.project linalg.qr linalg.solve linalg.svd ml.accuracy "
    "ml.kmeans ml.logistic_fit ml.logistic_predict nn.affine nn.attention nn.conv2d nn.gelu "
    "nn.layernorm nn.softmax quant.matmul quant.matmul_int32 quant.quantize signal.fft "
    "stats.describe stats.histogram stats.rescale stats.standardize"
)
KERNELS = Path(registry.__file__).parent

Package = Callable[[str, dict[str, str]], None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Writes (or rewrites) a package of modules and makes it importable afresh."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, modules: dict[str, str]) -> None:
        for loaded in set(sys.modules) - before:
            if loaded.partition(".")[0] == name:
                del sys.modules[loaded]
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for module, text in {"__init__": "", **modules}.items():
            path = folder / Path(*module.split(".")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    yield write
    for loaded in set(sys.modules) - before:
        del sys.modules[loaded]


def source_digest(name: str, module: str) -> bytes:
    return Sources().digest(name, module)


def declared(name: str, body: str = "inputs") -> str:
    return f'''
from enclave_worker.kernels.spec import kernel

@kernel("{name}", summary="", inputs={{"x": "float64[n]"}}, outputs={{"x": "float64[n]"}})
def function(xp, inputs, parameters, out):
    return {body}
'''


def test_every_kernel_of_the_list_is_built_in() -> None:
    assert [k.name for k in Registry(BUILT_IN)] == NAMES.split()


def test_the_catalogue_travels_and_digests_the_same_in_every_process() -> None:
    catalogue = Registry(BUILT_IN).catalogue()
    assert Catalogue.from_bytes(catalogue.to_bytes()) == catalogue
    assert Registry(reversed(BUILT_IN)).catalogue().digest() == catalogue.digest()
    assert len({entry.source_digest for entry in catalogue.entries}) == len(catalogue.entries)


@pytest.mark.parametrize("changed", ["nn", "normal", "blocks", "spec", "deep.constants"])
def test_a_change_in_any_module_behind_a_kernel_changes_the_catalogue(
    changed: str, package: Package
) -> None:
    """A worker that alters what softmax means, or a part it uses, announces another catalogue."""
    sources = {
        path.stem: path.read_text().replace("enclave_worker.kernels", "copied")
        for path in KERNELS.glob("*.py")
    }
    sources |= {"deep.__init__": "", "deep.constants": "", "blocks": sources["blocks"]}
    sources["blocks"] += "\n\ndef late():\n    from .deep import constants\n    return constants\n"
    package("copied", sources)
    before = source_digest("nn.softmax", "copied.nn")
    package("copied", sources)
    assert source_digest("nn.softmax", "copied.nn") == before
    package("copied", {**sources, changed: sources[changed] + "\n# another\n"})
    assert source_digest("nn.softmax", "copied.nn") != before


def test_a_change_in_an_unrelated_module_leaves_a_kernel_alone(package: Package) -> None:
    package("apart", {"one": declared("apart.one"), "other": "a = 1"})
    before = source_digest("apart.one", "apart.one")
    package("apart", {"one": declared("apart.one"), "other": "a = 2"})
    assert source_digest("apart.one", "apart.one") == before
    package("apart", {"__init__": "import os", "one": declared("apart.one")})
    assert source_digest("apart.one", "apart.one") != before, "what __init__ does, happens first"


def test_the_digest_follows_relative_and_package_imports(package: Package) -> None:
    sources = {
        "kernels": "from . import base\n" + declared("rel.one"),
        "base": "import rel.inner",
        "inner.__init__": "from .leaf import *",
        "inner.leaf": "value = 1",
    }
    package("rel", sources)
    before = source_digest("rel.one", "rel.kernels")
    package("rel", {**sources, "inner.leaf": "value = 2"})
    assert source_digest("rel.one", "rel.kernels") != before


def test_two_kernels_of_one_module_have_two_digests() -> None:
    module = "enclave_worker.kernels.nn"
    assert source_digest("nn.gelu", module) != source_digest("nn.softmax", module)


def test_a_kernel_without_readable_source_cannot_be_vouched_for(
    package: Package, tmp_path: Path
) -> None:
    with pytest.raises(KernelSourceError):
        source_digest("builtin.time", "time")
    with pytest.raises(KernelSourceError):
        source_digest("no.module", "there_is_no_such_module")
    package("gone", {"one": declared("gone.one")})
    loaded = Registry(["gone.one"])
    shutil.rmtree(tmp_path / "gone")
    importlib.invalidate_caches()
    with pytest.raises(KernelSourceError):
        loaded.catalogue()


# -- third parties --------------------------------------------------------------------------------


@pytest.fixture
def installed(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], None]:
    """Installs a distribution with one module in our entry-point group."""

    def install(name: str, source: str) -> None:
        package(name, {"kernels": source})
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[enclave_worker.kernels]\n{name} = {name}.kernels\n"
        )
        importlib.invalidate_caches()

    return install


def test_an_installed_package_adds_its_kernels(installed: Callable[[str, str], None]) -> None:
    plain = Registry.installed().catalogue()
    installed("acme", declared("acme.same"))
    extended = Registry.installed()
    assert "acme.same" in extended.catalogue().names
    assert extended.catalogue().digest() != plain.digest()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (declared("nn.softmax"), DuplicateKernelError),
        (declared("Bad Name"), RegistryError),
        (declared("nodot"), RegistryError),
        ("value = 1", RegistryError),
        ("raise RuntimeError", RegistryError),
        ("import a_module_that_is_missing", RegistryError),
    ],
)
def test_a_bad_package_refuses_the_whole_registry(
    source: str, error: type[RegistryError], installed: Callable[[str, str], None]
) -> None:
    """Left out silently, the worker would announce a catalogue that nobody chose."""
    installed("acme", source)
    with pytest.raises(error):
        Registry.installed()


def test_a_kernel_that_is_only_imported_is_not_a_second_one(package: Package) -> None:
    package("user", {"one": "from enclave_worker.kernels.nn import softmax" + declared("user.one")})
    assert "user.one" in [k.name for k in Registry([*BUILT_IN, "user.one"])]


def test_an_unknown_kernel_has_its_code() -> None:
    with pytest.raises(UnknownKernelError):
        Registry(BUILT_IN)["nn.unknown"]


@pytest.mark.parametrize(
    "ports",
    [
        {"inputs": {}, "outputs": {"y": "float64[]"}},
        {"inputs": {"x": "float64[n]"}, "outputs": {"y": "float64[m]"}},
        {"inputs": {"x": "T[n]"}, "outputs": {"y": "T[n]"}},
        {"inputs": {"x": "float64[n"}, "outputs": {"y": "float64[n]"}},
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(ports: dict[str, dict[str, str]]) -> None:
    with pytest.raises(DecodeError):
        kernel("test.bad", summary="", **ports)
