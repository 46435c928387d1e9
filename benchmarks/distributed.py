"""What training in several processes sends and takes, step by step, and at an update of the topology.

Networks of several widths and depths, as DDP or FSDP2 trains them over gloo. Counted are the bytes that a process hands
to collectives, by whoever calls them; timed are the optimizer's steps, with and without an update, which under DDP
follow the reduction of the gradients.

    python benchmarks/distributed.py --out results/distributed.json
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from reporting import command_line, save, show
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import lpsphere as lp
from lpsphere.topology.masks import skip

METHODS: dict[str, type[lp.Topology]] = {"SemiPruning": lp.SemiPruning, "RigL": lp.RigL, "SET": lp.SET}
TIMED = ("SemiPruning", "RigL")
SIZES = [(64, 4), (256, 4), (64, 8)]
EVERY, STEPS = 4, 20
ROWS = 8
_SENT = {"allreduce_": 0, "broadcast_": 0, "_allgather_base_": 1, "_reduce_scatter_base_": 1, "allgather_": 1}
"""Which argument of a collective is what a process hands to it."""


class Traffic(TorchDispatchMode):
    """Counts what this process hands to collectives.

    Attributes:
        bytes: Bytes, by collective.
        calls: Calls, by collective.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and do it."""
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func.overloadpacket.__name__
            if name in _SENT:
                self.calls[name] += 1
                self.bytes[name] += _size(args[_SENT[name]])
            elif name not in ("barrier", "wait_tensor"):
                raise NotImplementedError(f"{name} is not counted yet: say in _SENT which argument is sent")
        return func(*args, **(kwargs or {}))


def _size(sent: Any) -> int:
    return sent.nbytes if isinstance(sent, torch.Tensor) else sum(map(_size, sent))


def network(width: int, depth: int) -> nn.Sequential:
    """Hidden layers of one width, and an output layer that no method selects."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def wrapped(model: nn.Module, how: str) -> nn.Module:
    """As DDP or FSDP2 trains it."""
    if how == "DDP":
        return DistributedDataParallel(model)
    for layer in model.children():
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    fully_shard(model)
    return model


def measure(how: str, method: str, width: int, depth: int) -> dict[str, Any]:
    """Train for a few steps; what ordinary steps and those with an update send, and how long the optimizer takes.

    Args:
        how: "DDP" or "FSDP2".
        method: A name in `METHODS`.
        width: Width of the hidden layers.
        depth: Hidden layers.
    """
    model = wrapped(network(width, depth), how)
    groups = lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.1, radius="init")
    optimizer = lp.LpSGD(groups, momentum=0.9)
    with Traffic() as attaching:
        settings: dict[str, Any] = {"sparsity": 0.9, "total_steps": STEPS, "begin": 0.0, "end": 1.0, "every": EVERY}
        topology = METHODS[method](model, optimizer, **settings)
    kinds: dict[bool, list[tuple[Traffic, float]]] = {False: [], True: []}
    for step in range(1, STEPS + 1):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(ROWS, width, generator=generator)
        with Traffic() as traffic:
            model(x).square().mean().backward()
            started = time.perf_counter()
            optimizer.step()
            seconds = time.perf_counter() - started
        optimizer.zero_grad()
        if step > EVERY:  # the first steps compare hashes and make state
            kinds[topology.schedule.is_update(step)].append((traffic, seconds))
    plain, updates = kinds[False], kinds[True]
    gradients = plain[0][0].bytes.total()
    extra = [traffic.bytes.total() - gradients for traffic, _ in updates]
    return {
        "how": how,
        "processes": dist.get_world_size(),
        "method": method,
        "layers": depth,
        "weights": topology.weights,
        "attach_bytes": attaching.bytes.total(),
        "step_bytes": gradients,
        "update_bytes_beyond_a_step": max(extra),
        "update_bytes_beyond_a_step_least": min(extra),
        "update_calls_beyond_a_step": max(t.calls.total() for t, _ in updates) - plain[0][0].calls.total(),
        "step_ms": round(1e3 * statistics.median(seconds for _, seconds in plain), 3),
        "update_ms_beyond_a_step": round(
            1e3 * (statistics.median(s for _, s in updates) - statistics.median(s for _, s in plain)), 3
        ),
    }


def peak_bytes(method: str, width: int = 2048, depth: int = 4) -> dict[str, Any]:
    """Bytes a weight that a step of the optimizer takes beyond what it finds, without and with an update, on a CPU."""
    model = wrapped(network(width, depth), "FSDP2")
    optimizer = lp.LpSGD(lp.param_groups(model, p=1.2, lr=0.02, other_lr=0.1, radius="init"), momentum=0.9)
    settings: dict[str, Any] = {"sparsity": 0.9, "total_steps": 6, "begin": 0.5, "end": 1.0, "every": 3}
    topology = METHODS[method](model, optimizer, **settings)
    found: dict[str, Any] = {"method": method, "weights": topology.weights}
    for step in range(1, 4):
        model(torch.randn(1, width)).square().mean().backward()
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is that from here on
        before = _memory("VmRSS")
        optimizer.step()
        if step >= 2:
            kind = "with_update" if topology.schedule.is_update(step) else "without_update"
            found[f"{kind}_bytes_per_weight"] = round((_memory("VmHWM") - before) / topology.weights, 1)
        optimizer.zero_grad()
    return found


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


LARGE_LAYER = [(8192, 8192), (1024, 8192), (1024, 8192), (8192, 8192), (28672, 8192), (28672, 8192), (8192, 28672)]
LARGE_DEPTH, LARGE_RANKS = 80, 1024


def large() -> dict[str, Any]:
    """What an update sends in a network of 80 such layers on 1,024 processes: the most that the counts allow."""
    sizes = [rows * columns for rows, columns in LARGE_LAYER] * LARGE_DEPTH
    weights, tensors = sum(sizes), len(sizes)
    common = 8 + 8 + 16 * tensors  # whether gradients are finite, the largest score dropped, what changed in each layer
    together = 2 * _rounds(weights)
    apart = sum(2 * _rounds(size) for size in sizes)
    here = weights / LARGE_RANKS
    return {
        "weights": weights,
        "tensors": tensors,
        "processes": LARGE_RANKS,
        "weights_of_a_process": round(here),
        "gradient_bytes_of_a_process_bf16": 2 * weights,
        "network": {"calls": 3 + together, "bytes": common + together * 256 * 8},
        "layer": {"calls": 3 + tensors + apart, "bytes": common + 8 * tensors + apart * 256 * 8},
    }


def _rounds(size: int) -> int:
    """The most rounds of a search among so many: for four bytes of the score, then for those of the place."""
    return 4 + -(-(size - 1).bit_length() // 8)


def random_numbers(count: int = 2**24) -> float:
    """Nanoseconds to draw, or pass over, one random number."""
    started = time.perf_counter()
    skip(count, torch.Generator())
    return 1e9 * (time.perf_counter() - started) / count


def all_reduce_ms(numbers: int, rounds: int = 200) -> float:
    """Median milliseconds of one all-reduce of so many 64-bit integers."""
    values, times = torch.zeros(numbers, dtype=torch.int64), []
    for _ in range(rounds):
        started = time.perf_counter()
        dist.all_reduce(values)
        times.append(1e3 * (time.perf_counter() - started))
    return round(statistics.median(times), 4)


def _memory_process(_: int, folder: str, method: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=0, world_size=1)
    Path(folder, "peak.json").write_text(json.dumps(peak_bytes(method)), encoding="utf-8")
    dist.destroy_process_group()


def _process(rank: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=120)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=count, timeout=timeout)
    rows = []
    for how in ("DDP", "FSDP2"):
        for method in TIMED:
            for width, depth in SIZES:
                rows.append(measure(how, method, width, depth))
                if rank == 0:
                    show(rows[-1])
    reduction = {"numbers": 256, "ms": all_reduce_ms(256), "processes": count}
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps({"rows": rows, "all_reduce": reduction}), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Measure with every number of processes."""
    parser = command_line(__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    options = parser.parse_args()
    rows, reductions = [], []
    for count in options.processes:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_process, (count, folder), nprocs=count)
            found = json.loads(Path(folder, "rows.json").read_text(encoding="utf-8"))
        rows += found["rows"]
        reductions.append(found["all_reduce"])
    peaks = []
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_memory_process, (folder, method), nprocs=1)
            peaks.append(json.loads(Path(folder, "peak.json").read_text(encoding="utf-8")))
            print(peaks[-1], flush=True)
    save(
        options.out,
        random_number_ns=round(statistics.median(random_numbers() for _ in range(5)), 2),
        all_reduce=reductions,
        memory=peaks,
        large=large(),
        rows=rows,
    )


if __name__ == "__main__":
    main()
