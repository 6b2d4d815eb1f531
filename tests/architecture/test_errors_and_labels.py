"""One tree of errors with stable codes; one label per purpose."""

import importlib
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterable

from attestation.encoding.digests import Label, prefix
from attestation.errors import EnclaveError
from attestation.wire.control import RefusalCode
from tests.architecture.sources import modules

# Signals inside one package, always caught there.
INTERNAL = {
    "attestation.appraisal.checklist.CannotContinueError",
    "coordinator.core.admission.RefusedError",
}

# What a module may fail to import for lack of, and still be part of a sound installation.
OPTIONAL = {"cupy", "tpm2_pytss", "safetensors"}


def every_error() -> set[type[EnclaveError]]:
    for name in modules():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in OPTIONAL:
                raise
    found: set[type[EnclaveError]] = set()
    waiting = [EnclaveError]
    while waiting:
        error_class = waiting.pop()
        found.add(error_class)
        waiting += error_class.__subclasses__()
    return {error_class for error_class in found if error_class.__module__ in modules()}


def test_no_two_errors_of_a_package_share_a_code() -> None:
    """Programs match codes. A subclass that means the same as its parent may inherit its code.

    A `RefusalCode` is not an error's own: it is what travels, and says what the receiver can do.
    """
    by_code = defaultdict(list)
    for error_class in every_error():
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", error_class.code), error_class
        if "code" in vars(error_class) and not isinstance(error_class.code, RefusalCode):
            package = error_class.__module__.split(".")[0]
            by_code[package, str(error_class.code)].append(error_class.__qualname__)
    shared = {code: names for code, names in by_code.items() if len(names) > 1}
    assert not shared


def test_every_error_tells_its_reader_what_to_do() -> None:
    for error_class in every_error():
        assert error_class.__name__.endswith("Error"), error_class
        docstring = vars(error_class).get("__doc__")
        assert len(inspect.cleandoc(docstring or "")) > 20, error_class


def test_one_except_catches_every_error_of_ours() -> None:
    every_error()
    for name in modules():
        for value in _names_in(name):
            if (
                isinstance(value, type)
                and issubclass(value, Exception)
                and value.__module__ == name
            ):
                qualified = f"{name}.{value.__name__}"
                assert issubclass(value, EnclaveError) or qualified in INTERNAL, qualified


def _names_in(module: str) -> Iterable[object]:
    return vars(sys.modules[module]).values() if module in sys.modules else ()


def test_no_two_purposes_share_a_label() -> None:
    values = [prefix(label) for label in Label]
    assert len(set(values)) == len(values)
    for one in values:
        assert not any(other != one and other.startswith(one) for other in values)
