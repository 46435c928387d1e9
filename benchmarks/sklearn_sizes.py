"""What fits of the scikit-learn classifier take for tables of 100 to 1,000,000 rows, with the defaults.

Synthetic tables of 20 columns (10 informative, two classes of four clusters each), and 10,000 more rows to score. Each
fit runs in a process of its own with one thread: processor time, accuracy, and the peak of the resident memory (VmHWM,
on Linux) less what the process had when the table was there and a small fit had loaded what is needed. Beside it
``MLPClassifier`` after a ``StandardScaler``, up to 100,000 rows, and wider layers from 100,000 on.

    OMP_NUM_THREADS=1 python benchmarks/sklearn_sizes.py --out results/sklearn-sizes.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from reporting import command_line, save, show
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lpsphere.integrations.sklearn import LpSphereClassifier

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
COLUMNS, TEST_ROWS, MANY = 20, 10_000, 100_000
OURS, WIDE = "LpSphereClassifier", "LpSphereClassifier, hidden=(256, 256)"
MLP = "StandardScaler, MLPClassifier"


def estimator(name: str) -> Any:
    """A contender with its defaults."""
    if name == MLP:
        return make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
    return LpSphereClassifier(**({"hidden": (256, 256)} if name == WIDE else {}), random_state=0)


def peak() -> float:
    """The largest resident memory so far, in MB; unlike ru_maxrss without what the process that began this one had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def contenders(rows: int) -> list[str]:
    """Who is to learn from so many."""
    return [OURS, *([WIDE] if rows >= MANY else []), *([MLP] if rows <= MANY else [])]


def measure(name: str, path: Path) -> dict[str, Any]:
    """One fit to the table in a file, all rows but the last `TEST_ROWS`, in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    table = np.load(path)
    x, y = table[:, :-1], table[:, -1].astype(np.int64)
    rows = len(x) - TEST_ROWS
    estimator(name).fit(x[:100], y[:100])
    before, begin = peak(), time.process_time()
    fitted = estimator(name).fit(x[:rows], y[:rows])
    seconds, memory = time.process_time() - begin, peak() - before
    return {
        "rows": rows,
        "contender": name,
        "seconds": round(seconds, 2),
        "table_mb": round(x[:rows].nbytes / 2**20, 1),
        "memory_mb": round(memory, 1),
        "accuracy": round(float(fitted.score(x[rows:], y[rows:])), 4),
        "epochs": int((fitted[-1] if name == MLP else fitted).n_iter_),
    }


def readable(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A line for each fit."""
    return [
        {
            "rows": f"{row['rows']:,}",
            "contender": row["contender"],
            "seconds of a fit": f"{row['seconds']:.1f}",
            "table, MB": f"{row['table_mb']:.0f}",
            "memory on top, MB": f"{row['memory_mb']:.0f}",
            "epochs": f"{row['epochs']}",
            "accuracy": f"{row['accuracy']:.3f}",
        }
        for row in rows
    ]


def main() -> None:
    """Each fit in a process of its own."""
    parser = command_line(__doc__)
    parser.add_argument("--measure", nargs=2, help="a contender and the file of a table: one fit, in this process")
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]))))
        return
    rows = []
    with TemporaryDirectory() as folder:
        for size in SIZES:
            x, y = make_classification(
                size + TEST_ROWS, COLUMNS, n_informative=10, n_clusters_per_class=4, random_state=0
            )
            path = Path(folder) / "table.npy"  # made in this process, so that making it counts nowhere
            np.save(path, np.column_stack([x, y]))
            for name in contenders(size):
                command = [sys.executable, __file__, "--measure", name, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append(json.loads(done.stdout))
                show(rows[-1])
                save(options.out, packages=("scikit-learn",), table=readable(rows), rows=rows)


if __name__ == "__main__":
    main()
