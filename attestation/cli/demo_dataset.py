"""The demo's data and what it computes on them: once as a program of kernels, once in plain NumPy.

The two share no code, so that their agreement means something.
"""

import csv
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final, TypeAlias

import numpy as np
from attrs import field, frozen

from attestation.programs.builder import ProgramBuilder

Array: TypeAlias = np.ndarray[Any, Any]

COMPONENTS: Final = 10
"""Principal components kept of 30 measurements."""

L2: Final = 1.0
"""Weight of the penalty in the logistic regression."""

TOLERANCE: Final = 1e-8
"""Largest accepted difference between two probabilities for the same patient: both sides compute in
double precision and stop when steps are below 1e-8 of the weights."""

_NEWTON_STEPS: Final = 100


@frozen(kw_only=True)
class Split:
    """Patients to learn from, and patients to be judged."""

    number: int
    x_train: Array = field(repr=False)
    y_train: Array = field(repr=False)
    x_test: Array = field(repr=False)
    y_test: Array = field(repr=False)

    def inputs(self) -> dict[str, Array]:
        """Return the tensors under the names of the program's inputs."""
        return {
            "x_train": self.x_train,
            "y_train": self.y_train,
            "x_test": self.x_test,
            "y_test": self.y_test,
        }


def load() -> tuple[Array, Array]:
    """Return 569 rows of 30 measurements, and for each whether the mass was benign (1) or not."""
    path = files("attestation.cli").joinpath("demo_data", "wdbc.csv")
    rows = list(csv.reader(path.read_text(encoding="ascii").splitlines()))[1:]
    table = np.array(rows, dtype=np.float64)
    return np.ascontiguousarray(table[:, 1:]), table[:, 0].astype(np.int64)


def splits(*, folds: int = 10, repeats: int = 1, seed: int = 1) -> Iterator[Split]:
    """Cut the patients into `folds` parts, `repeats` times over; each part is judged once."""
    x, y = load()
    draw = np.random.default_rng(seed)
    for repeat in range(repeats):
        parts = np.array_split(draw.permutation(len(y)), folds)
        for fold, held_out in enumerate(parts):
            rest = np.concatenate([part for part in parts if part is not held_out])
            yield Split(
                number=repeat * folds + fold,
                x_train=x[rest],
                y_train=y[rest],
                x_test=x[held_out],
                y_test=y[held_out],
            )


def pipeline() -> ProgramBuilder:
    """Return the program: everything that is learnt is learnt from the training rows alone."""
    p = ProgramBuilder()
    x_train, y_train = p.input("x_train"), p.input("y_train")
    x_test, y_test = p.input("x_test"), p.input("y_test")
    scaled = p.step("stats.standardize", x=x_train)
    reduced = p.step("linalg.pca", x=scaled["z"], parameters={"k": COMPONENTS})
    model = p.step("ml.logistic_fit", x=reduced["scores"], y=y_train, parameters={"l2": L2})
    rescaled = p.step("stats.rescale", x=x_test, mean=scaled["mean"], scale=scaled["scale"])
    projected = p.step(
        "linalg.project",
        x=rescaled["z"],
        mean=reduced["mean"],
        components=reduced["components"],
    )
    judged = p.step(
        "ml.logistic_predict",
        x=projected["scores"],
        weights=model["weights"],
        bias=model["bias"],
    )
    accuracy = p.step("ml.accuracy", labels=y_test, predicted=judged["label"])
    p.output("probability", judged["probability"])
    p.output("accuracy", accuracy["accuracy"])
    return p


def plain_numpy(split: Split) -> tuple[float, Array]:
    """Return accuracy and probabilities, computed here with NumPy and nothing of the project."""
    mean, deviation = split.x_train.mean(axis=0), split.x_train.std(axis=0)
    train, test = (split.x_train - mean) / deviation, (split.x_test - mean) / deviation
    # Eigenvectors of the covariance, where the kernel factorises the rows.
    values, vectors = np.linalg.eigh(np.cov(train, rowvar=False))
    axes = vectors[:, np.argsort(values)[::-1][:COMPONENTS]]
    rows = np.column_stack([train @ axes, np.ones(len(train))])
    penalty = np.diag([L2] * COMPONENTS + [0.0])
    beta = np.zeros(COMPONENTS + 1)
    for _ in range(_NEWTON_STEPS):
        expected = 1 / (1 + np.exp(-rows @ beta))
        hessian = (rows.T * (expected * (1 - expected))) @ rows + penalty
        step = np.linalg.solve(hessian, rows.T @ (expected - split.y_train) + penalty @ beta)
        beta -= step
        if np.abs(step).max() < 1e-12:
            break
    probability = 1 / (1 + np.exp(-np.column_stack([test @ axes, np.ones(len(test))]) @ beta))
    return float(np.mean((probability >= 0.5) == split.y_test)), probability
