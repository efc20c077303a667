"""Evidence that may be looked at after every prompt, against numbers worked out by hand."""

import numpy as np
import pytest

from rlhf.gate.sequential import confidence_sequence, log_evidence


def test_the_evidence_by_hand() -> None:
    """A win, then a loss: the mean of 1 + l is 3/2, that of 1 - l^2 is 2/3. A tie is no evidence."""
    looks = [log_evidence(np.array([1.0, 0.5, 0.0])[:n], 0.5) for n in (1, 2, 3)]
    assert np.exp(looks) == pytest.approx([1.5, 1.5, 2 / 3])
    assert np.exp(log_evidence(np.ones(9), 0.5)) == pytest.approx((2**10 - 1) / 10)
    points = np.random.default_rng(11).choice([0.0, 0.5, 1.0], 200)
    assert log_evidence(points, 0.5) == pytest.approx(log_evidence(np.sort(points), 0.5)), "the order does not matter"


def test_a_confidence_sequence_holds_what_the_evidence_does_not_refute() -> None:
    points = np.random.default_rng(12).choice([0.0, 0.5, 1.0], 300, p=[0.3, 0.1, 0.6])
    found = confidence_sequence(points, confidence=0.95)
    assert np.exp(log_evidence(points, found.low)) == pytest.approx(40, rel=1e-6)
    assert np.exp(log_evidence(1 - points, 1 - found.high)) == pytest.approx(40, rel=1e-6)
    mirrored = confidence_sequence(1 - points, confidence=0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)
    doubled = confidence_sequence(np.repeat(points, 2), confidence=0.95, clusters=np.arange(600) // 2)
    assert (doubled.low, doubled.high, doubled.n) == pytest.approx((found.low, found.high, 300), abs=1e-9)
    lost = confidence_sequence(np.zeros(50), confidence=0.95)
    assert lost.low == 0.0
    assert 0.05 < lost.high < 0.2
