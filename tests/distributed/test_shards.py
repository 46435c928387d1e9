"""What is found from counts, without gathering: the same as `lowest` finds in one process."""

import pytest
import torch
import torch.distributed as dist
from processes import run

from lpsphere.distributed import Shards
from lpsphere.topology.masks import lowest


def random_scores(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(500, generator=generator)
    if seed % 3 == 1:
        scores = (scores * 2).round() / 2  # ties, and both zeros
    if seed % 3 == 2:
        scores[scores > 1] = torch.nan
        scores[scores < -1] = -torch.inf
        scores[(scores > 0) & (scores < 0.2)] *= 1e-40  # subnormal
    return scores


def cuts(count, seed):
    """Where the parts of the processes begin and end, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.randint(0, 501, (count - 1,), generator=generator).sort().values.tolist()
    return [0, *inside, 500]


def lowest_of_all(seeds, counts):
    shards = Shards(dist.group.WORLD, torch.device("cpu"))
    found = []
    for seed in seeds:
        scores, edges = random_scores(seed), cuts(dist.get_world_size(), seed)
        here = slice(*edges[dist.get_rank() :][:2])
        places = torch.arange(500)[here] * 7  # with gaps, as where some have no score
        found.append([shards.lowest(scores[here], places, 3500, count) for count in counts])
    return found


@pytest.mark.parametrize("processes", [1, 3])
def test_the_lowest_of_all_processes_are_those_of_one(tmp_path, processes):
    seeds, counts = range(9), (0, 1, 17, 250, 499, 500)
    parts = run(processes, tmp_path / "run", lowest_of_all, seeds, counts)
    for i, seed in enumerate(seeds):
        for j, count in enumerate(counts):
            together = torch.cat([part[i][j] for part in parts])
            assert int(together.sum()) == count
            assert torch.equal(together, lowest(random_scores(seed), count)), (seed, count)
