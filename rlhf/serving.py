"""Does a policy answer where it is served? A process of its own loads its files from another directory, by links, and
answers prompts greedily.

That process is this file run as a program. It knows transformers and nothing of this project, so a directory that only
our own code can load or decode does not pass. Nothing but the standard library is imported here until it runs.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Messages = Sequence[Mapping[str, str]]
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What answering one prompt at a time costs; times in seconds, that of each prompt the median of the rounds."""

    load_seconds: float  # of tokenizer and model, from the disk to the device
    latency_p50: float  # of an answer
    latency_p95: float
    tokens_per_second: float
    peak_memory: int  # bytes: of the GPU, or of the whole process where there is none


@dataclass(frozen=True)
class Probe:
    """What came of it. `cost` is None where no answer came; then `reason` says why."""

    answers: Sequence[Sequence[int]]  # token ids of each, the end-of-turn token included
    cost: Cost | None
    reason: str = ""

    @property
    def served(self) -> bool:
        return self.cost is not None

    def agreeing(self, answers: Sequence[Sequence[int]]) -> int:
        """How many of the served answers are these, token for token: one to each prompt, in the same order."""
        return sum(list(ours) == list(theirs) for ours, theirs in zip(self.answers, answers, strict=self.served))


def serve_probe(directory: Path, prompts: Sequence[Messages], *, max_tokens: int, rounds: int, timeout: float) -> Probe:
    """Serve the model in `directory` for `rounds` rounds of the prompts, of which the answers of the first are kept.

    max_tokens: of an answer. timeout: seconds for all of it. Whatever goes wrong in there is a result, not an error.
    """
    with TemporaryDirectory(prefix="rlhf-serving-") as place:
        alone, found = Path(place, "model"), Path(place, "found.json")
        shutil.copytree(directory.resolve(), alone, copy_function=os.symlink)
        orders = {"model": str(alone), "prompts": prompts, "max_tokens": max_tokens, "rounds": rounds}
        try:
            done = subprocess.run(
                [sys.executable, "-P", __file__, str(found)],
                input=json.dumps(orders),
                cwd=place,
                env=os.environ | _OFFLINE,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Probe([], None, f"it had not answered {len(prompts)} prompts {rounds} times after {timeout:g} s")
        if done.returncode or not found.is_file():
            said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
            return Probe([], None, said[-1])
        result = json.loads(found.read_text(encoding="utf-8"))
        return Probe(result["answers"], Cost(**result["cost"]))


def _serve(orders: Mapping[str, Any]) -> dict[str, Any]:
    """The program: load, answer, measure."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    tokenizer: Any = AutoTokenizer.from_pretrained(orders["model"], local_files_only=True, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        orders["model"], use_safetensors=True, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    model = model.to(device)
    loaded = time.perf_counter() - began

    def answer(messages: Messages) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        read = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(device)
        whole = model.generate(
            input_ids=read["input_ids"],
            attention_mask=read["attention_mask"],
            do_sample=False,
            max_new_tokens=orders["max_tokens"],
            pad_token_id=tokenizer.eos_token_id,
        )
        return list(whole[0, read["input_ids"].shape[1] :].tolist())

    rounds = [[_timed(answer, prompt) for prompt in orders["prompts"]] for _ in range(orders["rounds"])]
    seconds = [statistics.median(taken for _, taken in answers) for answers in zip(*rounds, strict=True)]
    cost = {
        "load_seconds": loaded,
        "latency_p50": statistics.median(seconds),
        "latency_p95": statistics.quantiles(seconds, n=20, method="inclusive")[-1],
        "tokens_per_second": sum(len(ids) for ids, _ in rounds[0]) / sum(seconds),
        "peak_memory": peak_memory(),
    }
    return {"answers": [ids for ids, _ in rounds[0]], "cost": cost}


def _timed(answer: Any, prompt: Messages) -> tuple[list[int], float]:
    began = time.perf_counter()
    ids = answer(prompt)
    return ids, time.perf_counter() - began


def peak_memory() -> int:
    """The most bytes that this process has held: of the GPU, if it has computed on one.

    Linux counts in getrusage what its parent held when it was started, so the kernel's own table is read there.
    """
    torch: Any = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(_serve(json.load(sys.stdin))), encoding="utf-8")
