"""Learning from rows: clusters and logistic regression, in double precision, in blocks of rows.

Draws come from `draws.uniform`, sums go through matrix products in a fixed order (scattered
additions on a GPU would come in any), and ties go to the lower index. Only the seeding of
`ml.kmeans` cannot promise equal bits: it looks a draw up among running sums, and CUB adds those in
the order in which blocks finish.
"""

import numpy as np

from enclave_worker.errors import (
    DomainError,
    NotConvergedError,
    NotFiniteError,
    SingularMatrixError,
)
from enclave_worker.kernels.blocks import EXACT_FLOATS, MATRIX_BYTES, spans
from enclave_worker.kernels.draws import uniform
from enclave_worker.kernels.spec import (
    Array,
    Arrays,
    Namespace,
    Values,
    deterministic,
    integer,
    kernel,
    number,
)

LABELS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@kernel(
    "ml.kmeans",
    summary="Clusters rows around k means: k-means++ seeding, then Lloyd's iteration.",
    types={"T": EXACT_FLOATS},
    inputs={"x": "T[n, d]"},
    outputs={
        "centroids": "T[k, d]",
        "labels": "int64[n]",
        "inertia": "float64[]",
        "iterations": "int64[]",
    },
    parameters=(
        integer("k", "clusters", minimum=1),
        integer("seed", "chooses the first centroids", default=0, minimum=0),
        integer("iterations", "stops here if labels still change", default=100, minimum=1),
    ),
    rules=("k <= n",),
)
def kmeans(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Iterate until no label changes; a cluster that loses its rows keeps its centroid."""
    x = inputs["x"]
    if not bool(xp.isfinite(x).all()):
        raise NotFiniteError("clustering needs finite numbers")
    # Distances come from |c|² - 2·x·c, which cancels for rows far from the origin.
    centre = xp.mean(x, axis=0, dtype=np.float64)
    centroids = _seed(xp, x, parameters["k"], parameters["seed"]) - centre
    labels, distances, sums, counts = _assign(xp, x, centre, centroids)
    rounds, settled = 0, False
    while not settled and rounds < parameters["iterations"]:
        filled = counts[:, None] > 0
        centroids = xp.where(filled, sums / xp.maximum(counts[:, None], 1), centroids)
        previous = labels
        labels, distances, sums, counts = _assign(xp, x, centre, centroids)
        rounds, settled = rounds + 1, bool((labels == previous).all())
    return {
        "centroids": (centroids + centre).astype(x.dtype),
        "labels": labels,
        "inertia": distances.sum(),
        "iterations": xp.asarray(rounds, dtype=np.int64),
    }


@deterministic
@kernel(
    "ml.logistic_fit",
    summary="Logistic regression of labels 0 and 1 on rows x, by Newton's method.",
    types={"T": EXACT_FLOATS, "L": LABELS},
    inputs={"x": "T[n, d]", "y": "L[n]"},
    outputs={"weights": "T[d]", "bias": "T[]", "iterations": "int64[]"},
    parameters=(
        number("l2", "half of it times |weights|² is added to the loss", default=1.0, minimum=0.0),
        integer("iterations", "fails if more are needed", default=100, minimum=1, maximum=10_000),
        number("tolerance", "largest last change", default=1e-8, minimum=1e-12, maximum=1.0),
    ),
)
def logistic_fit(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Minimise the penalised loss; the bias is not penalised."""
    x, y, l2 = inputs["x"], inputs["y"], parameters["l2"]
    _check_rows(xp, x, y)
    beta = xp.zeros(x.shape[1] + 1, dtype=np.float64)
    loss, gradient, hessian, margin = _evaluate(xp, x, y, beta, l2)
    if l2 == 0:
        _check_independent(xp, hessian)
    for count in range(1, parameters["iterations"] + 1):
        step = _solve(xp, hessian, gradient)
        decrease, part = float(gradient @ step), 1.0
        while True:
            trial = _evaluate(xp, x, y, beta - part * step, l2)
            # Armijo's condition; near the minimum, rounding of the loss hides any decrease.
            if trial[0] <= loss - 1e-4 * part * decrease + 1e-13 * abs(loss) or part < 1e-9:
                break
            part /= 2
        beta = beta - part * step
        loss, gradient, hessian, margin = trial
        if l2 == 0 and margin > 30:
            # A probability of 1e-13: the labels can be separated, and the weights grow forever.
            break
        if float(xp.abs(part * step).max()) <= parameters["tolerance"] * _scale(xp, beta):
            return {
                "weights": beta[:-1].astype(x.dtype),
                "bias": beta[-1].astype(x.dtype),
                "iterations": xp.asarray(count, dtype=np.int64),
            }
    raise NotConvergedError("logistic regression did not settle; raise l2 or the iterations")


@deterministic
@kernel(
    "ml.logistic_predict",
    summary="Probability of label 1 for rows x, and whether it reaches the threshold.",
    types={"T": EXACT_FLOATS},
    inputs={"x": "T[n, d]", "weights": "T[d]", "bias": "T[]"},
    outputs={"probability": "T[n]", "label": "int64[n]"},
    parameters=(number("threshold", "for label 1", default=0.5, minimum=0.0, maximum=1.0),),
)
def logistic_predict(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Decide on the probability as it is returned, so that the two outputs cannot disagree."""
    x = inputs["x"]
    margin = xp.matmul(x, inputs["weights"]) + inputs["bias"]
    probability = _sigmoid(xp, margin).astype(x.dtype)
    return {
        "probability": probability,
        "label": (probability >= parameters["threshold"]).astype(np.int64),
    }


@deterministic
@kernel(
    "ml.accuracy",
    summary="The part of predicted labels that equal the true ones.",
    types={"L": LABELS, "P": LABELS},
    inputs={"labels": "L[n]", "predicted": "P[n]"},
    outputs={"accuracy": "float64[]"},
)
def accuracy(_xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Count."""
    equal = inputs["labels"] == inputs["predicted"]
    return {"accuracy": equal.sum(dtype=np.int64) / float(equal.shape[0])}


# -- k-means --------------------------------------------------------------------------------------


def _seed(xp: Namespace, x: Array, k: int, seed: int) -> Array:
    """Choose k rows: each next one with a chance that grows with its squared distance."""
    count = x.shape[0]
    chosen = [int(uniform(seed, 0) * count)]
    nearest = _distances(xp, x, chosen[0])
    for draw in range(1, k):
        reached = xp.cumsum(nearest)
        total = float(reached[-1])
        target = uniform(seed, draw) * (total or count)
        # Only copies of chosen rows are left when the distances sum to zero: any will do.
        index = int((reached <= target).sum()) if total else int(target)
        chosen.append(min(index, count - 1))
        nearest = xp.minimum(nearest, _distances(xp, x, chosen[-1]))
    return x[xp.asarray(chosen)].astype(np.float64)


def _distances(xp: Namespace, x: Array, row: int) -> Array:
    distances = xp.empty(x.shape[0], dtype=np.float64)
    for span in spans(xp, x.shape[0], x.shape[1] * 8):
        difference = x[span].astype(np.float64) - x[row]
        distances[span] = xp.multiply(difference, difference, out=difference).sum(axis=1)
    return distances


def _assign(
    xp: Namespace, x: Array, centre: Array, centroids: Array
) -> tuple[Array, Array, Array, Array]:
    """Return label and squared distance of each row, and sum and count of each cluster."""
    count, k = x.shape[0], centroids.shape[0]
    labels = xp.empty(count, dtype=np.int64)
    distances = xp.empty(count, dtype=np.float64)
    sums, counts = xp.zeros_like(centroids), xp.zeros(k, dtype=np.float64)
    lengths = (centroids * centroids).sum(axis=1)
    for span in spans(xp, count, (x.shape[1] + 2 * k) * 8, block_bytes=MATRIX_BYTES):
        rows = x[span] - centre
        table = lengths - 2 * (rows @ centroids.T)
        labels[span] = table.argmin(axis=1)
        distances[span] = xp.maximum(table.min(axis=1) + (rows * rows).sum(axis=1), 0)
        members = (labels[span][:, None] == xp.arange(k)).astype(np.float64)
        sums += members.T @ rows
        counts += members.sum(axis=0)
    return labels, distances, sums, counts


# -- logistic regression --------------------------------------------------------------------------


def _check_rows(xp: Namespace, x: Array, y: Array) -> None:
    if not bool(xp.isfinite(x).all()):
        raise NotFiniteError("logistic regression needs finite numbers")
    ones, zeros = int((y == 1).sum()), int((y == 0).sum())
    if ones + zeros != y.shape[0] or ones == 0 or zeros == 0:
        raise DomainError("labels are 0 and 1, and both occur")


def _check_independent(xp: Namespace, hessian: Array) -> None:
    """Refuse dependent columns: without a penalty, infinitely many weights fit alike."""
    size = xp.sqrt(xp.diagonal(hessian))
    values = xp.linalg.eigvalsh(hessian / xp.where(size > 0, size * size[:, None], 1))
    if not float(values[0]) > 1e-12 * float(values[-1]):
        raise SingularMatrixError("columns depend on each other, or one is constant")


def _evaluate(
    xp: Namespace, x: Array, y: Array, beta: Array, l2: float
) -> tuple[float, Array, Array, float]:
    """Return loss, gradient, Hessian and the largest margin, in one pass over the rows."""
    penalty = xp.full(beta.shape, l2, dtype=np.float64)
    penalty[-1] = 0
    loss, gradient, hessian = 0.5 * (penalty * beta * beta).sum(), penalty * beta, xp.diag(penalty)
    largest = 0.0
    for span in spans(xp, x.shape[0], (2 * x.shape[1] + 8) * 8, block_bytes=MATRIX_BYTES):
        rows = xp.ones((span.stop - span.start, x.shape[1] + 1), dtype=np.float64)
        rows[:, :-1] = x[span]
        target = y[span].astype(np.float64)
        margin = rows @ beta
        probability = _sigmoid(xp, margin)
        # log(1 + exp(m)) without overflow.
        loss = (
            loss
            + (xp.log1p(xp.exp(-xp.abs(margin))) + xp.maximum(margin, 0) - target * margin).sum()
        )
        gradient = gradient + rows.T @ (probability - target)
        weights = probability * (1 - probability)
        hessian = hessian + rows.T @ (rows * weights[:, None])
        largest = max(largest, float(xp.abs(margin).max()))
    return float(loss), gradient, hessian, largest


def _solve(xp: Namespace, hessian: Array, gradient: Array) -> Array:
    try:
        step = xp.linalg.solve(hessian, gradient)
    except np.linalg.LinAlgError:
        step = None
    # NumPy raises where CuPy returns what is not finite.
    if step is None or not bool(xp.isfinite(step).all()):
        raise SingularMatrixError("the normal equations have no single solution; raise l2")
    return step


def _scale(xp: Namespace, beta: Array) -> float:
    return 1.0 + float(xp.abs(beta).max())


def _sigmoid(xp: Namespace, margin: Array) -> Array:
    power = xp.exp(-xp.abs(margin))
    return xp.where(margin >= 0, 1, power) / (1 + power)
