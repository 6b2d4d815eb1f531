"""Tensors in files: `.npy`, and as FILE:KEY `.npz` and `.safetensors`. Never pickles."""

import contextlib
import importlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from attestation.client.numpy_tensors import Array
from attestation.errors import TensorError, UnavailableError

_NPY: Final = ".npy"
_NPZ: Final = ".npz"
_SAFETENSORS: Final = ".safetensors"


class TensorFileError(TensorError):
    """A file does not hold the tensor that was asked for, or not in a format we read."""

    code = "tensor-file"


class SafetensorsMissingError(UnavailableError):
    """Reading .safetensors needs its library: pip install 'enclave-worker[safetensors]'."""

    code = "safetensors-missing"


def load_tensor(source: str, *, stdin: IO[bytes]) -> Array:
    """Read one array from FILE, FILE:KEY or `-` (a .npy on `stdin`); raises `TensorFileError`."""
    if source == "-":
        return _load_npy(io.BytesIO(stdin.read()), "standard input")
    path, key = _split(source)
    if not path.is_file():
        raise TensorFileError(f"{path} is not a file")
    if path.suffix == _NPZ:
        return _load_npz(path, key)
    if path.suffix == _SAFETENSORS:
        return _load_safetensors(path, key)
    if key:
        raise TensorFileError(f"{path}: only .npz and .safetensors hold named tensors")
    with path.open("rb") as file:
        return _load_npy(file, str(path))


def save_tensor(path: Path, array: Array) -> None:
    """Write `array` as `.npy`, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _split(source: str) -> tuple[Path, str]:
    for suffix in (_NPZ, _SAFETENSORS):
        before, found, key = source.rpartition(f"{suffix}:")
        if found:
            return Path(before + suffix), key
    return Path(source), ""


def _load_npy(file: IO[bytes], name: str) -> Array:
    with _reading(name, ".npy file without objects"):
        return np.lib.format.read_array(file, allow_pickle=False)


def _load_npz(path: Path, key: str) -> Array:
    # Not `np.load`: it also returns what is no array, and reads a .npy under another name.
    with _reading(str(path), ".npz file without objects"), zipfile.ZipFile(path) as archive:
        members = {
            name.removesuffix(_NPY): name for name in archive.namelist() if name.endswith(_NPY)
        }
        with archive.open(members[_choose(path, key, list(members))]) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _load_safetensors(path: Path, key: str) -> Array:
    try:
        library: Any = importlib.import_module("safetensors")
    except ImportError as error:
        raise SafetensorsMissingError("the safetensors library is not installed") from error
    with (
        _reading(str(path), ".safetensors file of NumPy dtypes"),
        library.safe_open(str(path), framework="np") as archive,
    ):
        array: Array = archive.get_tensor(_choose(path, key, list(archive.keys())))
    return array


@contextlib.contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Turn whatever a library says about a file's bytes into `TensorFileError`.

    None of the three promises a closed list: NumPy reads a header with Python's own tokenizer,
    zipfile adds its decompressors' errors, and a shape may ask for more memory than there is.
    """
    try:
        yield
    except TensorFileError:
        raise
    except Exception as error:
        raise TensorFileError(f"{name} is not a {what}") from error


def _choose(path: Path, key: str, names: list[str]) -> str:
    if not key and len(names) == 1:
        return names[0]
    if key not in names:
        listed = ", ".join(sorted(names)[:20])
        raise TensorFileError(f"{path}: name one of its tensors as {path}:KEY ({listed})")
    return key
