"""What is kept in files: never wrong, whoever writes and whatever happens to them, and of bounded size."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlhf.models.cached import cached

VALUES = {
    "log_probs": torch.linspace(-3.0, 0.0, 7),
    "ids": torch.arange(5, dtype=torch.int32),
    "count": torch.tensor(3),
    "one": torch.tensor(3).expand(1),  # has no stride
}


def computing(log: list[int], values: dict[str, Tensor] = VALUES) -> Callable[[], dict[str, Tensor]]:
    """A computation that notes when it runs."""
    return lambda: log.append(1) or values


def same(found: dict[str, Tensor], expected: dict[str, Tensor] = VALUES) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_what_is_there_is_not_computed_and_has_the_same_bits(tmp_path: Path) -> None:
    log: list[int] = []
    found = [cached(tmp_path / "cache/a.safetensors", computing(log)) for _ in range(2)]
    assert len(log) == 1
    assert all(map(same, found))
    assert names(tmp_path / "cache") == ["a.safetensors"]


def test_whichever_byte_is_damaged_what_is_returned_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    cached(path, computing([]))
    whole, log = path.read_bytes(), list[int]()
    places = range(0, len(whole), 5)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert same(cached(path, computing(log))), place
    assert len(log) > 0.9 * len(places), "all but the blanks of the header count"
    for length in (0, 5, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert same(cached(path, computing(log))), length
        assert path.read_bytes() == whole


def test_many_processes_at_once_get_the_same_and_leave_one_file_each(tmp_path: Path) -> None:
    context, processes, files = multiprocessing.get_context("fork"), 4, 20
    together, results = context.Barrier(processes), context.Queue()

    def work() -> None:
        right = True
        for number in range(files):
            values = {"x": torch.full((20_000,), number)}
            together.wait(60)
            right &= same(cached(tmp_path / f"{number}.safetensors", lambda values=values: values), values)
        results.put(right)

    started = [context.Process(target=work) for _ in range(processes)]
    for process in started:
        process.start()
    assert [results.get(timeout=60) for _ in started] == [True] * processes
    for process in started:
        process.join()
    assert names(tmp_path) == sorted(f"{number}.safetensors" for number in range(files))


def test_what_was_used_least_recently_makes_room(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "abcd"]
    values = {"x": torch.zeros(1000)}
    for age, path in enumerate(paths[:3]):
        cached(path, lambda: values)
        os.utime(path, (0, time.time() - 1000 + age))
    abandoned, begun = tmp_path / ".partial-1-x.safetensors", tmp_path / ".partial-2-x.safetensors"
    for file, seconds in ((abandoned, 10**6), (begun, 60)):
        file.write_bytes(bytes(4000))
        os.utime(file, (0, time.time() - seconds))
    cached(paths[0], lambda: values)  # used again
    cached(paths[3], lambda: values, limit=3 * paths[0].stat().st_size)
    assert names(tmp_path) == [begun.name, "a.safetensors", "c.safetensors", "d.safetensors"]
    cached(paths[1], lambda: values, limit=1)
    assert names(tmp_path) == [begun.name, "b.safetensors"], "what has just been written stays, however large"


def test_a_file_is_mapped_and_not_copied_into_memory(tmp_path: Path) -> None:
    path, size = tmp_path / "a.safetensors", 32 * 2**20

    def own_memory() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])

    before = own_memory()
    found = cached(path, lambda: {"x": np.ones(size, dtype=np.uint8)})["x"].numpy()
    assert int(found.sum()) == size
    assert own_memory() - before < size / 4
