"""The scikit-learn classifier beside scikit-learn's own network, both with their defaults, by cross-validation.

Six data sets, three shuffles into the same stratified folds for all contenders (their seeds are those of the
estimators, too): `LpSphereClassifier` at sparsity 0.9, and ``MLPClassifier`` after a ``StandardScaler`` and without
one. Accuracy on the rows left out, and processor time of one fit with one thread, which other work on the machine
disturbs less than the time on the clock.

    OMP_NUM_THREADS=1 python benchmarks/sklearn_table.py --out results/sklearn-table.json

writes the table to results/sklearn-table.md, too; --data climate computes that data set alone and keeps the others.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reporting import command_line, save, show
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lpsphere.data import load
from lpsphere.integrations.sklearn import LpSphereClassifier

FOLDS, SHUFFLES = 5, 3
OURS, SCALED, PLAIN = "LpSphereClassifier", "StandardScaler, MLPClassifier", "MLPClassifier"
CONTENDERS: dict[str, Callable[[int], Any]] = {
    OURS: lambda seed: LpSphereClassifier(random_state=seed),
    SCALED: lambda seed: make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)),
    PLAIN: lambda seed: MLPClassifier(random_state=seed),
}


def named(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """All rows of a data set of lpsphere (climate comes standardised; the others are 0 or 1)."""
    data = load(name)
    x, y = torch.cat([data.x_train, data.x_test]), torch.cat([data.y_train, data.y_test])
    return x.numpy(), y.numpy()


DATA: dict[str, Callable[[], tuple[NDArray[Any], NDArray[Any]]]] = {
    "breast_cancer": lambda: load_breast_cancer(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
    "dna": lambda: named("dna"),
    "mushroom": lambda: named("mushroom"),
    "climate": lambda: named("climate"),
}


def measure(name: str) -> list[dict[str, Any]]:
    """A row for each contender."""
    x, y = DATA[name]()
    folds = [
        (seed, *parts)
        for seed in range(SHUFFLES)
        for parts in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y)
    ]
    rows = []
    for contender, make in CONTENDERS.items():
        accuracies, seconds, sparsities = [], [], []
        for seed, train, test in folds:
            estimator, begin = make(seed), time.process_time()
            estimator.fit(x[train], y[train])
            seconds.append(round(time.process_time() - begin, 3))
            accuracies.append(float(np.mean(estimator.predict(x[test]) == y[test])))
            sparsities.append(float(getattr(estimator, "sparsity_", 0.0)))
        rows.append(
            {
                "data": name,
                "rows": len(x),
                "features": x.shape[1],
                "contender": contender,
                "accuracies": [round(accuracy, 6) for accuracy in accuracies],
                "accuracy": round(statistics.mean(accuracies), 6),
                "sd": round(statistics.stdev(accuracies), 6),
                "seconds": round(statistics.mean(seconds), 3),
                "sparsity": round(statistics.mean(sparsities), 6),
            }
        )
        show(rows[-1])
    return rows


def readable(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A line a data set: mean and standard deviation over the folds, and seconds of a fit."""
    lines = []
    for name in dict.fromkeys(row["data"] for row in rows):
        own = {row["contender"]: row for row in rows if row["data"] == name}
        line = {"data": name, "rows x features": f"{own[OURS]['rows']:,} x {own[OURS]['features']}"}
        line |= {key: f"{row['accuracy']:.4f} ± {row['sd']:.4f}" for key, row in own.items()}
        line["seconds of a fit"] = ", ".join(f"{row['seconds']:.1f}" for row in own.values())
        lines.append(line)
    return lines


def main() -> None:
    """Compute and report."""
    parser = command_line(__doc__)
    parser.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the defaults end after 200 epochs, converged or not
    kept = [] if options.out is None or not options.out.exists() else json.loads(options.out.read_text())["rows"]
    found = {name: [row for row in kept if row["data"] == name] for name in DATA}
    for name in options.data:
        found[name] = measure(name)
        rows = [row for name in DATA for row in found[name]]
        save(options.out, packages=("scikit-learn",), table=readable(rows), folds=FOLDS, shuffles=SHUFFLES, rows=rows)


if __name__ == "__main__":
    main()
