"""TRL's trainers on a tiny model, set so that nothing but their loss is left: fp32, no dropout, no accumulation."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.algorithms.tiny import tiny_tokenizer

collect_ignore_glob = [] if find_spec("trl") else ["test_*.py"]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
PLAIN = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_length": None}


def tokenizer() -> Any:
    made = tiny_tokenizer()
    made.chat_template, made.pad_token_id = TEMPLATE, 0
    return made


@pytest.fixture
def trl(tmp_path: Path) -> Callable[..., Any]:
    """Make one of TRL's trainers, in evaluation mode: `trl("DPO", policy, rows, beta=0.1)`."""

    def make(kind: str, model: nn.Module, rows: list[dict[str, Any]], init: Any = None, **options: Any) -> Any:
        import trl as library
        from datasets import Dataset

        plain = {name: value for name, value in PLAIN.items() if kind not in ("GRPO", "RLOO") or name != "max_length"}
        config = getattr(library, f"{kind}Config")(output_dir=str(tmp_path), **plain, **options)
        trainer = getattr(library, f"{kind}Trainer")(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer(),
            **(init or {}),
        )
        trainer.model.eval()
        return trainer

    return make


def gradient(model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """The gradient of a loss with respect to every parameter, as one vector."""
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])


def agree(ours: tuple[nn.Module, torch.Tensor], theirs: tuple[nn.Module, torch.Tensor]) -> None:
    """Loss and gradient agree to 1e-5."""
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(*ours), gradient(*theirs), rtol=1e-5, atol=1e-5)
