"""Fused elementwise arithmetic: one pass over the inputs, whatever the expression.

The language is `attestation.programs.expressions`; client and worker have checked the text before
this runs. NumPy walks the parsed nodes over blocks that stay in the cache; on a GPU they become one
`ElementwiseKernel` (`expression_cuda`).
"""

from typing import Final

import numpy as np

from attestation.programs import expressions
from enclave_worker.kernels import expression_cuda, expression_numpy
from enclave_worker.kernels.spec import (
    Arrays,
    Namespace,
    Values,
    deterministic,
    expression,
    kernel,
)

_OTHERS: Final = "bcdefgh"


@deterministic
@kernel(
    "expr.map",
    summary="y = the expression of a to h, element by element, in one pass.",
    types={"T": expressions.DTYPES},
    inputs={"a": "T[...]", **dict.fromkeys(_OTHERS, "T[...]?")},
    outputs={"y": "T[...]"},
    parameters=(expression("expression", "such as where(a > 0, a, 0.01*a) + b"),),
)
def expression_map(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """Evaluate over the flat arrays."""
    parsed = expressions.parse(parameters["expression"])
    y = out["y"] if "y" in out else xp.empty(inputs["a"].shape, dtype=inputs["a"].dtype)
    flat = {name: inputs[name].reshape(-1) for name in parsed.names}
    evaluate = expression_numpy.evaluate if xp is np else expression_cuda.evaluate
    evaluate(xp, parsed, flat, y.reshape(-1))
    return {"y": y}
