"""The tree of RFC 9162, against its recursive definition and published values."""

import hashlib

import pytest

from attestation.receipts.merkle import (
    EMPTY_ROOT,
    InclusionInvalidError,
    InclusionPaths,
    inclusion_path,
    leaf_hash,
    node_hash,
    root,
    verify_inclusion,
)

# Leaves and roots that implementations of Certificate Transparency share: transparency-dev/merkle,
# testonly/constants.go at 77f1b57d7aa25fcd2e51273166b6b2b0e74923b1 (Apache-2.0). RFC 9162 kept the
# tree of RFC 6962.
PUBLISHED_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
PUBLISHED_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

SIZES = range(1, 70)


def leaves(size: int) -> list[bytes]:
    return [leaf_hash(index.to_bytes(2, "big")) for index in range(size)]


def split(size: int) -> int:
    """The largest power of two below `size` (RFC 9162 section 2.1.1)."""
    return 1 << (size - 1).bit_length() - 1


def recursive_root(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    pair = recursive_root(hashes[:k]) + recursive_root(hashes[k:])
    return hashlib.sha256(b"\x01" + pair).digest()


def recursive_path(hashes: list[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*recursive_path(hashes[:k], index), recursive_root(hashes[k:])]
    return [*recursive_path(hashes[k:], index - k), recursive_root(hashes[:k])]


@pytest.mark.parametrize("size", range(1, len(PUBLISHED_ROOTS) + 1))
def test_the_root_is_the_published_one(size: int) -> None:
    hashes = [leaf_hash(leaf) for leaf in PUBLISHED_LEAVES[:size]]
    assert root(hashes).hex() == PUBLISHED_ROOTS[size - 1]


def test_the_empty_tree_has_the_root_of_the_standard_and_holds_nothing() -> None:
    assert root([]) == EMPTY_ROOT == hashlib.sha256().digest()
    with pytest.raises(ValueError, match="without leaves"):
        InclusionPaths([])
    with pytest.raises(InclusionInvalidError):
        verify_inclusion(EMPTY_ROOT, 0, 0, (), EMPTY_ROOT)


@pytest.mark.parametrize("size", SIZES)
def test_roots_and_paths_are_those_of_the_recursive_definition(size: int) -> None:
    hashes = leaves(size)
    assert root(hashes) == recursive_root(hashes)
    paths = InclusionPaths(hashes)
    assert paths.root == root(hashes)
    for index in range(size):
        assert list(paths.path(index)) == recursive_path(hashes, index)


@pytest.mark.parametrize("size", SIZES)
def test_every_path_leads_to_the_root_and_to_no_other_place(size: int) -> None:
    hashes = leaves(size)
    top = root(hashes)
    for index in range(size):
        path = inclusion_path(hashes, index)
        verify_inclusion(hashes[index], index, size, path, top)
        for other in {0, index - 1, index + 1, index ^ 1, size - 1, size} - {index}:
            with pytest.raises(InclusionInvalidError):
                verify_inclusion(hashes[index], other, size, path, top)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33])
def test_a_path_of_another_length_is_refused(size: int) -> None:
    hashes = leaves(size)
    top, path = root(hashes), inclusion_path(hashes, 0)
    with pytest.raises(InclusionInvalidError):
        verify_inclusion(hashes[0], 0, size, (*path, hashes[0]), top)
    if path:
        with pytest.raises(InclusionInvalidError):
            verify_inclusion(hashes[0], 0, size, path[:-1], top)


def test_an_inner_node_cannot_be_shown_as_a_leaf() -> None:
    """Leaves and nodes are hashed under different prefixes; a shorter tree of nodes is no proof."""
    hashes = leaves(4)
    inner = node_hash(hashes[0], hashes[1])
    assert leaf_hash(hashes[0] + hashes[1]) != inner
    with pytest.raises(InclusionInvalidError):
        verify_inclusion(inner, 0, 4, (node_hash(hashes[2], hashes[3]),), root(hashes))


def test_a_path_longer_than_any_tree_is_refused_before_it_is_hashed() -> None:
    with pytest.raises(InclusionInvalidError):
        verify_inclusion(bytes(32), 0, 1 << 70, (bytes(32),) * 70, bytes(32))


@pytest.mark.parametrize(("leaf", "sibling"), [(31, 32), (32, 33), (0, 32), (32, 0)])
def test_a_hash_of_another_length_is_refused(leaf: int, sibling: int) -> None:
    """Otherwise bytes could be moved from one sibling of a node to the other."""
    top = node_hash(bytes(leaf), bytes(sibling))
    with pytest.raises(InclusionInvalidError):
        verify_inclusion(bytes(leaf), 0, 2, (bytes(sibling),), top)


def test_there_is_no_path_for_a_leaf_outside_the_tree() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            inclusion_path(leaves(3), index)
