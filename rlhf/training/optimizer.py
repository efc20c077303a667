"""AdamW with linear warm-up and linear decay."""

import torch
from torch import Tensor, nn

from rlhf.config.training import OptimizerConfig


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over every parameter that learns; weight decay on matrices only."""
    learning = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def skip_if(broken: Tensor, optimizer: torch.optim.AdamW) -> None:
    """Have the next step of a fused `optimizer` change nothing if `broken`, a bool scalar that nobody waits for."""
    optimizer.found_inf = broken.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells it


def learning_rate(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of optimizer step `step` (0-based): rises over the warm-up, then falls in a line to zero."""
    warmup = config.warmup * total_steps
    rising = (step + 1) / (warmup + 1)
    falling = (total_steps - step) / max(1.0, total_steps - warmup)
    return config.learning_rate * min(1.0, rising, falling)
