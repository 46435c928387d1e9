"""How long importing lpsphere takes beyond importing torch, each time in a new process.

python benchmarks/import_time.py --out results/import-time.json
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from reporting import command_line, save, show

CODE = """
import json, time
wall, processor = time.perf_counter(), time.process_time()
import torch
torch_took = [time.perf_counter() - wall, time.process_time() - processor]
wall, processor = time.perf_counter(), time.process_time()
import lpsphere
print(json.dumps([torch_took, [time.perf_counter() - wall, time.process_time() - processor]]))
"""


def main() -> None:
    """Time and report."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    found = []
    for _ in range(options.rounds):
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    rows = [
        {
            "import": name,
            "seconds": round(statistics.median(taken[i][0] for taken in found), 4),
            "processor_seconds": round(statistics.median(taken[i][1] for taken in found), 4),
        }
        for i, name in enumerate(("torch", "lpsphere, after torch"))
    ]
    for row in rows:
        show(row)
    save(options.out, packages=("numpy", "scipy"), rounds=options.rounds, rows=rows)


if __name__ == "__main__":
    main()
