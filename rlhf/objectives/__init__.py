"""Objectives as pure functions: tensors in, (sum, metrics) out. The caller divides once by the global count.

Letters: B sequences, P prompt tokens, R response tokens, T = P + R, V vocabulary, K answers ranked. A mask is boolean,
True where a token (or an answer) counts; token-aligned tensors of shape (B, T) hold at position t what belongs to the
token at t. Metrics are pairs of a sum and what it is a sum over, so that they add up over micro-batches and processes
as the objective does.
"""

from torch import Tensor

Metrics = dict[str, tuple[Tensor, Tensor]]  # name: (sum, number that it is a sum over), both scalars
