import re

import pytest

from lpsphere.theory import expected_hoyer, hoyer_std, p_for_hoyer, p_for_sparsity, weak_fraction


def cells(out, fan_in):
    line = next(line for line in out.splitlines() if re.match(rf"\s*{fan_in:,}\s", line))
    return [float(cell.replace(",", "")) for cell in line.split()]


def test_p_gives_the_expected_sparsity_its_spread_and_the_weak_fraction(lpsphere):
    status, out, err = lpsphere("predict", "--p", 1.2, "--fan-in", "288,3136", "--threshold", 0.3)
    assert (status, err) == (0, "")
    for n in (288, 3136):
        expected = [n, 1.2, expected_hoyer(1.2, n), hoyer_std(1.2, n), weak_fraction(1.2, 0.3)]
        assert cells(out, n) == pytest.approx(expected, abs=1e-4)


def test_a_sparsity_by_hoyer_gives_p(lpsphere):
    _, out, _ = lpsphere("predict", "--hoyer", 0.7, "--fan-in", 288)
    assert cells(out, 288)[1:3] == pytest.approx([p_for_hoyer(0.7, 288), 0.7], abs=1e-5)


def test_a_weak_fraction_gives_p_with_a_word_of_caution_and_a_picture(lpsphere, tmp_path):
    _, out, _ = lpsphere("predict", "--sparsity", 0.9, "--plot", "pictures/hoyer.png")
    assert cells(out, 144)[1] == pytest.approx(p_for_sparsity(0.9), rel=1e-5)
    assert "a larger p does better" in out
    assert (tmp_path / "pictures" / "hoyer.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "predict takes one of --p, --hoyer, --sparsity"),
        (("--p", 1.2, "--hoyer", 0.5), "predict takes one of"),
        (("--p", 1), "p must be finite and greater than 1, got 1.0"),
        (("--p", 1.2, "--fan-in", "1"), "a fan_in of at least 2, got 1"),
        (("--hoyer", 1.5), "must lie strictly between 0 and 1, got 1.5"),
        (("--sparsity", 0.9, "--threshold", 2), "needs a threshold below 1, got 2"),
    ],
)
def test_a_bad_question_is_explained(lpsphere, words, message):
    status, _, err = lpsphere("predict", *words)
    assert status == 2
    assert message in " ".join(err.split())
