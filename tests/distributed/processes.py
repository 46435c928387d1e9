"""Functions run in several processes at once, which cannot hang: each run has a deadline, each collective a timeout."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

SECONDS = 240


def _enter(rank: int, function: Callable[..., Any], count: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", rendezvous, rank=rank, world_size=count, timeout=timedelta(seconds=60))
    torch.save(function(*arguments), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(count: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns in each of so many processes with a common process group.

    Raises:
        Exception: If it raises in one of them.
        TimeoutError: If they take too long.
    """
    folder.mkdir(parents=True)
    multiprocessing.set_forkserver_preload(["torch", "lpsphere"])
    context = multiprocessing.start_processes(
        _enter, (function, count, folder, arguments), nprocs=count, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{function.__name__} took more than {SECONDS} s in {count} processes")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def torchrun(*arguments: Any, count: int = 2) -> subprocess.Popen[str]:
    """A started torchrun with so many processes, in a session of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its output, when it has ended; all of its processes are gone then."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output
