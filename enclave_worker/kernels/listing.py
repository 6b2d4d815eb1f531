"""A catalogue in words: what `enclave kernels` prints, and the list in docs/kernels.md."""

from collections.abc import Iterable, Mapping
from typing import Any

from attestation.programs import shapes
from attestation.programs.catalogue import Catalogue, CatalogueEntry
from attestation.programs.parameters import Parameter, ParameterKind
from attestation.programs.signature import KernelSignature, Port


def document(catalogue: Catalogue) -> dict[str, Any]:
    """Return the catalogue for `--json`."""
    return {
        "catalogue_digest": catalogue.digest().hex(),
        "kernels": [entry_document(entry) for entry in catalogue.entries],
    }


def entry_document(entry: CatalogueEntry) -> dict[str, Any]:
    """Return one kernel for `--json`."""
    return {**entry.signature.to_map(), "source_digest": entry.source_digest.hex()}


def call(signature: KernelSignature) -> str:
    """Return the kernel as a call: `linalg.pca(x, k=) -> scores, components, mean, variance`."""
    arguments = [
        f"{port.name}?" if shapes.parse(port.pattern).optional else port.name
        for port in signature.inputs
    ]
    arguments += [f"{p.name}={_value(p.default)}" for p in signature.parameters]
    outputs = ", ".join(port.name for port in signature.outputs)
    return f"{signature.name}({', '.join(arguments)}) -> {outputs}"


def command(signature: KernelSignature) -> str:
    """Return a command line that runs the kernel on files named like its inputs."""
    needed_ports = [p for p in signature.inputs if not shapes.parse(p.pattern).optional]
    inputs = " ".join(f"-i {port.name}={port.name}.npy" for port in needed_ports)
    needed = [p for p in signature.parameters if p.default is None]
    parameters = "".join(f" -p {p.name}={_example(p)}" for p in needed)
    return f"enclave submit {signature.name} {inputs}{parameters} -o results"


def details(entry: CatalogueEntry) -> str:
    """Return everything about one kernel, for a person at a terminal."""
    signature = entry.signature
    lines = [
        f"{signature.name}, version {signature.version}",
        signature.summary,
        "",
        call(signature),
        "",
        *_section("inputs", (_port(port) for port in signature.inputs)),
        *_section("outputs", (_port(port) for port in signature.outputs)),
        *_section("types", _types(signature.types)),
        *_section("parameters", (parameter_line(p) for p in signature.parameters)),
        *_section("rules", signature.rules),
        f"equal bits     {_promise(signature)}",
        f"source digest  {entry.source_digest.hex()}",
        "",
        "Example:",
        f"  {command(signature)}",
    ]
    return "\n".join(lines)


def parameter_line(parameter: Parameter) -> str:
    """Return one parameter with its kind, bounds, default and meaning."""
    words = [f"{parameter.name}: {parameter.kind}"]
    if parameter.choices:
        words.append(f"one of {', '.join(parameter.choices)}")
    if parameter.minimum is not None:
        words.append(f"at least {parameter.minimum}")
    if parameter.maximum is not None:
        words.append(f"at most {parameter.maximum}")
    words.append(
        "required" if parameter.default is None else f"default {_value(parameter.default)}"
    )
    if parameter.summary:
        words.append(parameter.summary)
    return "; ".join(words)


def markdown(catalogue: Catalogue) -> str:
    """Return the list of kernels for docs/kernels.md, without digests: they change daily."""
    return "\n".join(_markdown(entry.signature) for entry in catalogue.entries)


def _markdown(signature: KernelSignature) -> str:
    lines = [
        f"### {signature.name}",
        "",
        signature.summary,
        "",
        f"`{call(signature)}`",
        "",
        *(f"- in `{_port(port)}`" for port in signature.inputs),
        *(f"- out `{_port(port)}`" for port in signature.outputs),
        *(f"- type `{line}`" for line in _types(signature.types)),
        *(f"- parameter {parameter_line(p)}" for p in signature.parameters),
        *(f"- rule `{rule}`" for rule in signature.rules),
        *([] if signature.deterministic else [f"- equal bits: {_promise(signature)}"]),
        "",
    ]
    return "\n".join(lines)


def _section(title: str, lines: Iterable[str]) -> list[str]:
    body = [f"  {line}" for line in lines]
    return [title, *body, ""] if body else []


def _promise(signature: KernelSignature) -> str:
    return "promised on one class of device" if signature.deterministic else "not promised"


def _port(port: Port) -> str:
    return f"{port.name}: {port.pattern}"


def _types(types: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [f"{variable}: {', '.join(dtypes)}" for variable, dtypes in types.items()]


def _value(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _example(parameter: Parameter) -> str:
    if parameter.kind is ParameterKind.EXPRESSION:
        return "a"
    if parameter.kind is ParameterKind.INT:
        return str(max(2, parameter.minimum or 0))
    return str(parameter.choices[0] if parameter.choices else parameter.minimum or 1)
