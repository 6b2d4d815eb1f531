"""Tensors in files: `.npy`, and as FILE:KEY `.npz` and `.safetensors`. Never pickles."""

import importlib
import io
import os
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from attestation.client.numpy_tensors import Array
from attestation.errors import TensorError, UnavailableError

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
    try:
        return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, TypeError) as error:
        raise TensorFileError(f"{name} is not a .npy file without objects") from error


def _load_npz(path: Path, key: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: Array = archive[_choose(path, key, list(archive.files))]
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise TensorFileError(f"{path} is not a .npz file without objects") from error
    return array


def _load_safetensors(path: Path, key: str) -> Array:
    try:
        library: Any = importlib.import_module("safetensors")
    except ImportError as error:
        raise SafetensorsMissingError("the safetensors library is not installed") from error
    try:
        with library.safe_open(str(path), framework="np") as archive:
            array: Array = archive.get_tensor(_choose(path, key, list(archive.keys())))
    except (library.SafetensorError, ValueError, TypeError) as error:
        raise TensorFileError(f"{path} is not a .safetensors file of NumPy dtypes") from error
    return array


def _choose(path: Path, key: str, names: list[str]) -> str:
    if not key and len(names) == 1:
        return names[0]
    if key not in names:
        listed = ", ".join(sorted(names)[:20])
        raise TensorFileError(f"{path}: name one of its tensors as {path}:KEY ({listed})")
    return key
