"""What is installed is what was locked: each name, each version, each with its hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.supply_chain.lock import MAIN, TPM, entries, extras

LOCKS = {"main": MAIN, "tpm": TPM}
each_lock = pytest.mark.parametrize("path", LOCKS.values(), ids=LOCKS)


def locked(*paths: Path) -> dict[str, Version]:
    found = {}
    for path in paths:
        for entry in entries(path.read_text()):
            name, _, version = entry.partition("==")
            found[canonicalize_name(name)] = Version(version)
    return found


def declared(repository: Path) -> list[Requirement]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for name in extras() for text in optional[name])]
    return [Requirement(text) for text in texts]


@each_lock
def test_every_entry_is_one_exact_version_with_its_hashes(path: Path) -> None:
    found = entries(path.read_text())
    assert found
    for name, entry in found.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", name), name
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})(?![0-9a-f])", entry)
        assert hashes, f"{name} has no hash"
        assert entry.count("--hash=") == len(hashes), f"{name}: a hash that is no SHA-256"


@each_lock
def test_a_lock_says_what_and_never_where_from(path: Path) -> None:
    """An index or a host in it would decide, in a review nobody does, whom we trust."""
    text = path.read_text()
    for word in ("://", "--index", "--extra-index", "--find-links", "--trusted", " @ ", "-e ", "/"):
        assert word not in text.replace("\\", ""), f"{path.name} holds {word!r}"


def test_every_declared_dependency_is_locked_within_its_bounds(repository: Path) -> None:
    versions = locked(MAIN, TPM)
    for requirement in declared(repository):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} is locked as {version}"


def test_the_build_backend_is_locked_too(repository: Path) -> None:
    """An editable installation runs it, with our rights."""
    build = tomllib.loads((repository / "pyproject.toml").read_text())["build-system"]
    for requirement in map(Requirement, build["requires"]):
        assert requirement.specifier.contains(locked(MAIN)[canonicalize_name(requirement.name)])


def test_what_must_be_built_from_source_is_apart(repository: Path) -> None:
    """Otherwise a machine without TPM headers could install nothing."""
    assert not locked(MAIN).keys() & locked(TPM).keys()
    assert list(locked(TPM)) == ["tpm2-pytss"]


@pytest.mark.parametrize(
    "text",
    ["attrs==1\n", "attrs==1 \\\n    --hash=sha256:00\n", "attrs>=1 \\\n    --hash=md5:00\n"],
)
def test_an_entry_without_hashes_would_be_noticed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.lock"
    path.write_text(text)
    with pytest.raises(AssertionError):
        test_every_entry_is_one_exact_version_with_its_hashes(path)
