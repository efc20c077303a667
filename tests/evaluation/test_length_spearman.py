"""How far a reward is length in disguise."""

import numpy as np
import pytest

from tasks.reward import length_spearman


def test_a_model_that_goes_by_length_shows_whoever_prefers_what() -> None:
    """It finds the shorter better, as people do in every pair: better first, its margins and lengths tell nothing."""
    assert length_spearman(np.array([1.0, 1.0, 1.0]), np.array([-3, -2, -1])) == pytest.approx(-((27 / 35) ** 0.5))


def test_by_hand() -> None:
    """Margins 2, -1, -2, 1 have ranks 4, 2, 1, 3, lengths 1, 3, -1, -3 have 3, 4, 2, 1: 1 - 6 (1 + 4 + 1 + 4) / 60."""
    assert length_spearman(np.array([2.0, -1.0]), np.array([1, 3])) == pytest.approx(0.0)


@pytest.mark.parametrize(("margins", "longer"), [([0.0, 0.0], [1, 2]), ([0.5, 1.0], [0, 0])])
def test_where_nothing_differs_nothing_is_said(margins: list[float], longer: list[int]) -> None:
    assert length_spearman(np.array(margins), np.array(longer)) is None


def test_a_model_that_gives_every_pair_the_same_margin_may_still_go_by_length() -> None:
    """Margins have ranks 3.5, 3.5, 1.5, 1.5, lengths 3, 4, 2, 1."""
    assert length_spearman(np.array([0.5, 0.5]), np.array([1, 2])) == pytest.approx(2 / 5**0.5)
