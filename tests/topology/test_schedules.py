import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsphere.topology.schedules import UpdateSchedule, cubic, half_cosine


def updates(schedule, total_steps):
    return [step for step in range(total_steps + 2) if schedule.is_update(step)]


def test_updates_run_from_begin_to_end_and_once_more_at_end():
    schedule = UpdateSchedule.of_training(total_steps=100, begin=0.2, end=0.8, every=25)
    assert schedule == UpdateSchedule(first=20, last=80, every=25)
    assert updates(schedule, 100) == [20, 45, 70, 80]


def test_an_update_that_falls_on_the_end_happens_once():
    assert updates(UpdateSchedule.of_training(100, 0.2, 0.8, 30), 100) == [20, 50, 80]


def test_begin_zero_means_the_first_step_and_end_one_the_last():
    assert updates(UpdateSchedule.of_training(6, 0.0, 1.0, 2), 6) == [1, 3, 5, 6]


def test_begin_equal_to_end_gives_one_update_with_all_progress():
    schedule = UpdateSchedule.of_training(10, 0.5, 0.5, None)
    assert updates(schedule, 10) == [5]
    assert schedule.progress(5) == 1


def test_a_training_of_one_step_has_its_update():
    assert updates(UpdateSchedule.of_training(1, 0.2, 0.8, None), 1) == [1]


@pytest.mark.parametrize(
    ("total_steps", "every"), [(1, 1), (99, 1), (199, 1), (200, 2), (3999, 39), (4000, 40), (100_000, 40)]
)
def test_every_none_is_a_hundredth_of_training_between_1_and_40(total_steps, every):
    assert UpdateSchedule.of_training(total_steps, 0.2, 0.8, None).every == every


def test_progress_is_0_before_and_at_the_first_update_linear_between_and_1_from_the_last_on():
    schedule = UpdateSchedule(first=20, last=80, every=10)
    assert [schedule.progress(step) for step in (0, 20, 35, 50, 79, 80, 100)] == [0, 0, 0.25, 0.5, 59 / 60, 1, 1]


@given(
    total_steps=st.integers(1, 500),
    fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    every=st.one_of(st.none(), st.integers(1, 600)),
)
def test_every_schedule_has_updates_inside_training_that_end_at_full_progress(total_steps, fractions, every):
    schedule = UpdateSchedule.of_training(total_steps, *fractions, every)
    steps = updates(schedule, total_steps)
    assert 1 <= steps[0] == schedule.first <= steps[-1] == schedule.last <= total_steps
    assert all(b - a == schedule.every for a, b in itertools.pairwise(steps[:-1]))
    progress = [schedule.progress(step) for step in steps]
    assert progress == sorted(progress)
    assert progress[-1] == 1


def test_the_cubic_starts_fast_and_ends_at_the_target():
    assert [cubic(0.2, 0.9, x) for x in (0, 1)] == [pytest.approx(0.2), pytest.approx(0.9)]
    assert cubic(0.2, 0.9, 0.5) == pytest.approx(0.9 - 0.7 / 8)


def test_the_half_cosine_falls_from_its_start_to_zero():
    assert half_cosine(0.3, 0) == 0.3
    assert half_cosine(0.3, 0.5) == pytest.approx(0.15)
    assert half_cosine(0.3, 1 / 3) == pytest.approx(0.3 * (1 + math.cos(math.pi / 3)) / 2)
    assert half_cosine(0.3, 1) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.2, 0.8, None), r"total_steps must be a whole number of at least 1, got 0: len\(loader\) \* epochs"),
        ((10.0, 0.2, 0.8, None), "total_steps must be a whole number .* got 10.0"),
        ((True, 0.2, 0.8, None), "total_steps must be a whole number .* got True"),
        ((10, 0.8, 0.2, None), "0 <= begin <= end <= 1; got 0.8, 0.2"),
        ((10, -0.1, 0.8, None), "got -0.1, 0.8"),
        ((10, 0.2, 1.1, None), "got 0.2, 1.1"),
        ((10, math.nan, 0.8, None), "got nan, 0.8"),
        ((10, 0.2, 0.8, 0), "every must be a whole number of steps, at least 1, or None; got 0"),
        ((10, 0.2, 0.8, 1.5), "every must be .* got 1.5"),
        ((10, 0.2, 0.8, True), "every must be .* got True"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        UpdateSchedule.of_training(*arguments)
