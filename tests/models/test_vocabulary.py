"""Log-probabilities made chunk by chunk are those of the plain formula, and so are their gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from rlhf.batching.layout import rounded
from rlhf.models import vocabulary
from rlhf.models.vocabulary import chosen_log_probs

N, D, V = 13, 6, 50


def plain(
    states: Tensor, head: nn.Linear, ids: Tensor, *, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    log_softmax = (head(states) / temperature).float().log_softmax(dim=-1)
    entropies = -(log_softmax.exp() * log_softmax).sum(dim=-1) if entropy else None
    return log_softmax.gather(-1, ids[:, None]).squeeze(-1), entropies


def results(function: object, *, bias: bool, entropy: bool, autocast: bool, rows: int = N) -> list[Tensor]:
    """Values, and the gradients of a weighted sum of them by states, weight and bias."""
    torch.manual_seed(0)
    head, states, ids = nn.Linear(D, V, bias=bias), torch.randn(rows, D, requires_grad=True), torch.randint(V, (rows,))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values = [v for v in function(states, head, ids, temperature=0.7, entropy=entropy) if v is not None]
    sum((v * torch.randn(rows)).sum() for v in values).backward()
    return [*values, *[p.grad for p in (states, *head.parameters())]]


@pytest.mark.parametrize("chunk", [1, 5, N, 100])
@pytest.mark.parametrize(("bias", "entropy"), [(False, False), (True, True), (False, True)])
def test_chunks_give_the_plain_formula(chunk: int, bias: bool, entropy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_CPU_BYTES", chunk * 4 * V)
    options = {"bias": bias, "entropy": entropy, "autocast": False}
    for ours, theirs in zip(results(chosen_log_probs, **options), results(plain, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [5, 256])
def test_autocast_rounds_the_logits_and_nothing_after(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors, relative in norm, of log-probabilities, entropies and gradients by states and weight.

    The limits lie between what rounding the logits costs and what a softmax, an entropy, or a sum over chunks of the
    weight's gradient in bfloat16 would cost.
    """
    monkeypatch.setattr(vocabulary, "_CPU_BYTES", chunk * 4 * V)
    options = {"bias": False, "entropy": True, "autocast": True, "rows": 256}
    pairs = zip(results(chosen_log_probs, **options), results(plain, **options), strict=True)
    for (ours, theirs), limit in zip(pairs, (1.1e-3, 6e-4, 4e-3, 5.4e-3), strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert (ours - theirs).norm() < limit * theirs.norm()
    of_weight = results(chosen_log_probs, **options)[-1]
    assert torch.equal(of_weight, of_weight.bfloat16().float()) == (chunk == 256), "a sum of products is not rounded"


def test_no_more_than_a_chunk_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd holds for the backward pass is linear in N + V, not N V."""
    monkeypatch.setattr(vocabulary, "_CPU_BYTES", 5 * 4 * V)
    rows = 64 * N
    head, states = nn.Linear(D, V, bias=False), torch.randn(rows, D, requires_grad=True)
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (held.append(t.numel()), t)[1], lambda t: t):
        chosen_log_probs(states, head, torch.zeros(rows, dtype=torch.int64), entropy=True)
    assert max(held) <= max(rounded(rows), V) * D < rows * V


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("bias", [False, True])
def test_the_divergence_of_two_models_is_that_of_their_distributions(
    chunk: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_CPU_BYTES", 2 * chunk * 4 * 50)
    torch.manual_seed(0)
    states, others = torch.randn(23, 8), torch.randn(23, 8)
    head, other = nn.Linear(8, 50, bias=bias), nn.Linear(8, 50, bias=bias)
    kl, entropy = vocabulary.divergence(states, head, others, other, temperature=0.7)
    p, q = (Categorical(logits=by(read).detach() / 0.7) for by, read in ((head, states), (other, others)))
    torch.testing.assert_close(kl, kl_divergence(p, q), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy, p.entropy(), rtol=1e-5, atol=1e-6)
    assert vocabulary.divergence(states, head, states, head)[0].abs().max() == 0.0
