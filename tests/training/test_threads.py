import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lpsphere.models import MLP
from lpsphere.training import Interrupted, TrainConfig, Trainer
from lpsphere.training.threads import SHORT_STEP, threads_for, using_threads


def test_a_short_step_is_taken_by_one_thread_and_a_long_one_by_torch_s_choice():
    model = MLP(20, (100,), 5)  # 2,500 weights, six operations a sample for each
    longest = int(SHORT_STEP / (6 * 2500))
    assert threads_for(model, torch.zeros(1, 20), longest) == 1
    assert threads_for(model, torch.zeros(1, 20), longest + 1) is None


def test_the_number_of_threads_is_as_before_afterwards(two_threads):
    def fail():
        with using_threads(1):
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == 2
    with using_threads(None):
        assert torch.get_num_threads() == 2


def test_the_number_is_as_before_after_runs_side_by_side(two_threads):
    """The second begins and ends while the first is under way, and a third begins in a thread born meanwhile."""

    def run(until):
        with using_threads(1):
            seen.append(torch.get_num_threads())
            until()
        seen.append(torch.get_num_threads())

    def at_once(until=lambda: None):
        other = threading.Thread(target=run, args=(until,))
        other.start()
        other.join()

    seen = []
    run(lambda: at_once(at_once))
    assert seen == [1, 1, 1, 2, 2, 2]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor() as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize(("changes", "expected"), [({}, 1), ({"hidden": (3000, 1000)}, 2), ({"threads": 2}, 2)])
def test_a_run_uses_as_many_as_its_network_asks_for_unless_told(two_threads, tmp_path, changes, expected):
    trainer = Trainer(TrainConfig(**{"hidden": (16,), "epochs": 1, "device": "cpu", **changes}), tmp_path / "run")
    seen = []

    def stop(progress):
        seen.append(torch.get_num_threads())
        trainer.stop()

    with pytest.raises(Interrupted):
        trainer.fit(stop)
    assert seen == [expected]
    assert torch.get_num_threads() == 2
