"""Evidence that may be looked at after every prompt, against numbers worked out by hand."""

import numpy as np
import pytest

from rlhf.gate.sequential import confidence_sequence, e_process


def test_the_e_process_by_hand() -> None:
    """A win, then a loss: the mean of 1 + l is 3/2, that of 1 - l^2 is 2/3. A tie is no evidence."""
    assert e_process(np.array([1.0, 0.5, 0.0])) == pytest.approx([1.5, 1.5, 2 / 3])
    assert e_process(np.ones(9))[-1] == pytest.approx((2**10 - 1) / 10)
    points = np.random.default_rng(11).choice([0.0, 0.5, 1.0], 200)
    assert e_process(points)[-1] == pytest.approx(e_process(np.sort(points))[-1]), "the order does not matter"


def test_a_confidence_sequence_holds_what_the_e_process_does_not_refute() -> None:
    points = np.random.default_rng(12).choice([0.0, 0.5, 1.0], 300, p=[0.3, 0.1, 0.6])
    found = confidence_sequence(points, confidence=0.95)
    assert e_process(points, found.low)[-1] == pytest.approx(40, rel=1e-6)
    assert e_process(1 - points, 1 - found.high)[-1] == pytest.approx(40, rel=1e-6)
    mirrored = confidence_sequence(1 - points, confidence=0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)
    doubled = confidence_sequence(np.repeat(points, 2), confidence=0.95, clusters=np.arange(600) // 2)
    assert (doubled.low, doubled.high, doubled.n) == pytest.approx((found.low, found.high, 300), abs=1e-9)
    lost = confidence_sequence(np.zeros(50), confidence=0.95)
    assert lost.low == 0.0
    assert 0.05 < lost.high < 0.2
