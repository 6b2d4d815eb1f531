"""Signatures with the shapes of the kernels that the shape language was made for."""

from collections.abc import Mapping

from attestation.identifiers import Digest
from attestation.programs.catalogue import Catalogue, CatalogueEntry
from attestation.programs.parameters import Parameter, ParameterKind
from attestation.programs.signature import KernelSignature, Port
from attestation.sealing.tensor_spec import TensorSpec

REAL = ("float16", "float32", "float64")
NUMERIC = ("float32", "float64", "complex64", "complex128")
K = Parameter(name="k", kind=ParameterKind.INT, minimum=1, maximum=4096)


def signature(
    name: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    types: Mapping[str, tuple[str, ...]] | None = None,
    parameters: tuple[Parameter, ...] = (),
    rules: tuple[str, ...] = (),
) -> KernelSignature:
    return KernelSignature(
        name=name,
        version=1,
        summary=f"{name} for tests",
        types={"T": REAL} if types is None else types,
        inputs=tuple(Port(name=port, pattern=pattern) for port, pattern in inputs.items()),
        outputs=tuple(Port(name=port, pattern=pattern) for port, pattern in outputs.items()),
        parameters=parameters,
        rules=rules,
    )


def number(name: str, default: float) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.FLOAT, default=default)


MATMUL = signature(
    "linalg.matmul", {"a": "T[..., m, k]", "b": "T[..., k, n]"}, {"c": "T[..., m, n]"}
)
SVD = signature(
    "linalg.svd",
    {"x": "T[m, n]"},
    {"u": "T[m, min(m, n)]", "s": "real(T)[min(m, n)]", "vh": "T[min(m, n), n]"},
    types={"T": NUMERIC},
)
PCA = signature(
    "linalg.pca",
    {"x": "T[n, d]"},
    {"components": "T[k, d]", "explained": "T[k]", "scores": "T[n, k]", "mean": "T[d]"},
    parameters=(K,),
    rules=("k <= min(n, d)",),
)
LSTSQ = signature("linalg.lstsq", {"a": "T[m, n]", "b": "T[m, p]"}, {"x": "T[n, p]"})
DESCRIBE = signature("stats.describe", {"x": "T[n, d]"}, {"mean": "float64[d]"})
HISTOGRAM = signature(
    "stats.histogram",
    {"x": "T[...]"},
    {"counts": "int64[bins]", "edges": "float64[bins+1]"},
    parameters=(
        Parameter(name="bins", kind=ParameterKind.INT, default=10, minimum=1, maximum=65536),
    ),
)
STANDARDIZE = signature(
    "stats.standardize", {"x": "T[n, d]"}, {"z": "T[n, d]", "mean": "T[d]", "scale": "T[d]"}
)
AFFINE = signature(
    "nn.affine",
    {"x": "T[...]"},
    {"y": "T[...]"},
    parameters=(number("scale", 1.0), number("shift", 0.0)),
)
SOFTMAX = signature("nn.softmax", {"x": "T[..., n]"}, {"y": "T[..., n]"})
LAYERNORM = signature(
    "nn.layernorm", {"x": "T[..., d]", "gamma": "T[d]", "beta": "T[d]"}, {"y": "T[..., d]"}
)
ATTENTION = signature(
    "nn.attention",
    {"q": "T[..., n, d]", "k": "T[..., m, d]", "v": "T[..., m, e]"},
    {"y": "T[..., n, e]"},
)
FFT = signature("signal.fft", {"x": "T[..., n]"}, {"y": "complex(T)[..., n]"}, types={"T": NUMERIC})
KMEANS = signature(
    "ml.kmeans",
    {"x": "T[n, d]"},
    {"centroids": "T[k, d]", "labels": "int64[n]", "inertia": "float64[]"},
    parameters=(K,),
    rules=("k <= n",),
)
LOGISTIC_FIT = signature(
    "ml.logistic_fit", {"x": "T[n, d]", "y": "int64[n]"}, {"weights": "T[d]", "bias": "T[]"}
)
LOGISTIC_PREDICT = signature(
    "ml.logistic_predict",
    {"x": "T[n, d]", "weights": "T[d]", "bias": "T[]"},
    {"probability": "T[n]", "label": "int64[n]"},
)

ALL = (
    *(MATMUL, SVD, PCA, LSTSQ, DESCRIBE, HISTOGRAM, STANDARDIZE, AFFINE, SOFTMAX, LAYERNORM),
    *(ATTENTION, FFT, KMEANS, LOGISTIC_FIT, LOGISTIC_PREDICT),
)
CATALOGUE = Catalogue.of(
    CatalogueEntry(signature=one, source_digest=Digest(bytes([index]) * 32))
    for index, one in enumerate(ALL)
)


def spec(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(dtype=dtype, shape=shape)
