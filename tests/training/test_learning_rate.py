import pytest

from lpsphere.training.learning_rate import SCHEDULES


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0, 0.02), (1 / 12, 0.51), (1 / 6, 1.0), (0.25, 0.625), (1 / 3, 0.25), (0.94, 0.002), (1, 0.0001)],
)
def test_the_piecewise_schedule_has_the_authors_knots(progress, factor):
    assert SCHEDULES["piecewise"](progress) == pytest.approx(factor, rel=1e-12)


def test_the_cosine_schedule_warms_up_and_ends_at_zero():
    cosine = SCHEDULES["cosine"]
    assert cosine(0) == 0
    assert cosine(0.05) == 1
    assert cosine(0.525) == pytest.approx(0.5)
    assert cosine(1) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_exceeds_its_peak(name):
    values = [SCHEDULES[name](step / 1000) for step in range(1001)]
    assert 0.99 < max(values) <= 1
    assert min(values) >= 0
