"""`rlhf status`, `rlhf doctor` and `rlhf chat` on a workspace that nothing has run in, and on a tiny model."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import Result

from rlhf.cli.doctor import _disk
from rlhf.cli.status import _reasons, last_run
from rlhf.errors import DataError
from rlhf.gate.ledger import Ledger
from rlhf.manifest import write_manifest
from rlhf.pipeline.graph import load_graph
from rlhf.tracking.journal import Journal, pipeline_journal


def test_status_of_a_new_workspace(rlhf: Callable[..., Result], small_world: Path) -> None:
    value = json.loads(rlhf("status", "-C", small_world, "--json").stdout)
    assert list(value["stages"]) == list(load_graph(small_world).stages)
    assert all("it has not run yet" in reasons for reasons in value["stages"].values())
    assert (value["last_run"], value["services"], value["champion"]) == (None, {}, None)
    shown = rlhf("status", "-C", small_world)
    assert shown.exit_code == 0
    assert shown.stdout.count("not run yet") == len(value["stages"])


def test_status_shows_the_champion_and_what_will_be_compared_with_another(
    rlhf: Callable[..., Result], small_world: Path
) -> None:
    Ledger.of(small_world).promote("key", "aa", "small-policy/1", "of another decision", 0, "ada")
    value = json.loads(rlhf("status", "-C", small_world, "--json").stdout)
    assert {name for name, reasons in value["stages"].items() if "another champion" in reasons} == {
        "evaluate@ppo",
        "evaluate@dpo",
        "gate",
    }
    assert value["champion"]["policy"] == "aa"
    shown = rlhf("status", "-C", small_world).stdout
    assert re.search(r"small-policy/1, generation 1, since \d{4}-\d\d-\d\d \d\d:\d\d \S+ \(promote, by ada\)", shown)


def test_status_tells_what_a_run_has_done_while_it_goes_on(rlhf: Callable[..., Result], small_world: Path) -> None:
    rwlock = small_world / ".dvc/tmp/rwlock"
    rwlock.parent.mkdir(parents=True, exist_ok=True)
    sft = {str(small_world / "models/sft"): {"pid": os.getpid(), "cmd": "dvc repro"}}
    rwlock.write_text(json.dumps({"read": {}, "write": sft}))
    with Journal(pipeline_journal(small_world, "one")) as journal:
        journal.write("start", run_id="one")
        journal.write("stage", name="collect", state="ran")
        journal.write("stage", name="validate", state="failed")
        stages = json.loads(rlhf("status", "-C", small_world, "--json").stdout)["stages"]
        shown = rlhf("status", "-C", small_world).stdout
    assert (stages["collect"], stages["validate"], stages["sft"]) == ([], ["failed"], ["a run is at work"])
    assert re.search(r"sft +a run is at work", shown)
    assert json.loads(rwlock.read_text())["write"] == sft


def test_the_last_run_is_the_one_at_work_whatever_the_clock_says(small_world: Path) -> None:
    """Journals are named after the time of their beginning, and clocks go back."""
    for name in ("2026-a", "2026-b"):
        with Journal(pipeline_journal(small_world, name)) as journal:
            journal.write("start", run_id=name)
    assert (last_run(small_world) or {})["id"] == "2026-b"
    with Journal(pipeline_journal(small_world, "2026-a")):
        found = last_run(small_world) or {}
    assert (found["id"], found["status"]) == ("2026-a", "running")


def test_the_findings_of_dvc_in_words() -> None:
    found = [
        {"changed deps": {"params.yaml": {"align.dpo.beta": "modified"}, "data/clean": "modified", "code.json": {}}},
        {"changed deps": {"champion.json": {"champion.policy": "modified", "champion.judged": "modified"}}},
        {"changed deps": {"champion.json": {"champion.judged": "modified"}}},
        {"changed outs": {"models/sft": "deleted"}},
        "changed command",
    ]
    assert list(_reasons(found)) == [
        "align.dpo.beta",
        "data/clean",
        "its code",
        "another champion",
        "the test set was looked at again",
        "models/sft was removed",
        "its command",
    ]


def test_doctor_finds_nothing_wrong_in_a_new_workspace(rlhf: Callable[..., Result], small_world: Path) -> None:
    result = rlhf("doctor", "-C", small_world, "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == 0
    looked_at = "Python packages disk git DVC GPU computing Prefect MLflow params code inputs state"
    assert set(looked_at.split()) == set(findings)
    assert [finding for finding in findings.values() if finding["state"] == "bad"] == []


def test_doctor_names_a_disk_that_cannot_be_written_to() -> None:
    (finding,) = _disk(Path("/proc/self"))
    assert (finding.state, finding.text[:32]) == ("bad", "/proc/self cannot be written to:")


def test_doctor_tells_the_rest_where_a_look_breaks(
    rlhf: Callable[..., Result], small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def without_torch(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", without_torch)
    result = rlhf("doctor", "-C", small_world)
    assert result.exit_code == 10
    assert "torch is missing" in result.stdout
    assert re.search(r"✗ gpu +PackageNotFoundError: No package metadata was found for torch", result.stdout)
    assert re.search(r"✓ inputs", result.stdout)


def test_doctor_names_settings_that_are_no_text_and_waits_for_nobody(
    rlhf: Callable[..., Result], small_world: Path
) -> None:
    """A run at work is no fault."""
    (small_world / ".dvc/config").write_bytes(b"# caf\xe9\n")
    result = rlhf("doctor", "-C", small_world)
    assert result.exit_code == 10
    assert re.search(r"✗ dvc +UnicodeDecodeError", result.stdout)
    (small_world / ".dvc/config").write_text("")
    (small_world / ".dvc/tmp").mkdir(exist_ok=True)
    holder = {"cmd": "dvc repro", "pid": os.getpid()}
    (small_world / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {str(small_world / "data"): holder}, "read": {}}))
    result = rlhf("doctor", "-C", small_world, "--json")
    state = next(finding for finding in json.loads(result.stdout) if finding["name"] == "state")
    assert (result.exit_code, state["state"]) == (0, "warning"), state


def test_doctor_names_a_version_that_breaks_another(
    rlhf: Callable[..., Result], small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.165.0" if name == "fastapi" else real(name))
    result = rlhf("doctor", "-C", small_world)
    assert result.exit_code == 10
    assert "fastapi 0.165.0 where" in result.stdout
    assert "make setup" in result.stdout


def test_doctor_names_what_is_wrong_with_params_and_code(rlhf: Callable[..., Result], small_world: Path) -> None:
    params = small_world / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: -3"))
    (small_world / "code.json").write_text("{}")
    result = rlhf("doctor", "-C", small_world)
    assert result.exit_code == 10
    assert "`seed` is -3" in result.stdout
    assert "code.json is stale for collect" in result.stdout


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A tiny policy, saved as stages save one."""
    from rlhf.models.loading import save_model
    from tests.algorithms.tiny import tiny_policy, tiny_tokenizer

    directory = tmp_path / "policy"
    save_model(tiny_policy(), tiny_tokenizer(), directory, title="tiny", summary="A test.")
    return directory


def test_chat_answers_the_same_at_the_same_seed(rlhf: Callable[..., Result], small_world: Path, policy: Path) -> None:
    ask = ("chat", policy, "-C", small_world, "--prompt", "red")
    answers = [rlhf(*ask, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]
    assert rlhf(*ask, "--temperature", "0").stdout == rlhf(*ask, "--temperature", "0", "--seed", "9").stdout


def test_a_line_that_is_too_long_was_never_said(policy: Path) -> None:
    from rlhf.cli.chat import Talk
    from rlhf.cli.policies import load

    tokenizer, model = load(policy)
    talk = Talk(model, tokenizer, prompt_tokens=20, response_tokens=4, temperature=0.0, seed=0)
    talk.answer("red")
    before = list(talk.messages)
    with pytest.raises(DataError, match="of at most 20"):
        talk.answer("north " * 40)
    assert talk.messages == before
    assert [message["role"] for message in before] == ["user", "assistant"]


def test_chat_goes_on_until_an_empty_line(rlhf: Callable[..., Result], small_world: Path, policy: Path) -> None:
    long = " ".join(["north"] * 400)
    result = rlhf("chat", policy, "-C", small_world, input=f"red\n{long}\n/new\nblue\n\nnever asked\n")
    assert result.exit_code == 0
    assert result.stdout.count("you") == 5
    assert "tokens.prompt" in result.stdout


def test_chat_refuses_what_is_no_text_and_goes_on(rlhf: Callable[..., Result], small_world: Path, policy: Path) -> None:
    asked = rlhf("chat", policy, "-C", small_world, "--prompt", "\udcff")
    assert (asked.exit_code, "not UTF-8" in asked.stderr) == (11, True)
    result = rlhf("chat", policy, "-C", small_world, input=b"red\n\xff\xfe\nblue\n")
    assert (result.exit_code, result.stdout.count("you"), result.stdout.count("not UTF-8")) == (0, 4, 1)


@pytest.mark.parametrize(("option", "value"), [("--temperature", "inf"), ("--temperature", "nan"), ("--seed", 2**31)])
def test_chat_takes_no_number_that_sampling_does_not(rlhf: Callable[..., Result], option: str, value: object) -> None:
    result = rlhf("chat", option, value)
    assert (result.exit_code, option in result.stderr) == (2, True)


def test_chat_without_standard_input() -> None:
    command = f"{sys.executable} -m rlhf chat <&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, "--prompt TEXT" in done.stderr) == (10, True)


def test_chat_without_standard_output() -> None:
    command = f"echo hi | {sys.executable} -m rlhf chat >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    said = "error: cannot write to standard output: it is closed. Send it elsewhere\n"
    assert (done.returncode, done.stderr) == (15, said)


def test_chat_with_a_damaged_configuration(rlhf: Callable[..., Result], small_world: Path, policy: Path) -> None:
    config = policy / "config.json"
    sound = json.loads(config.read_text())
    for text in ("garbage{", "[]"):
        config.write_text(text)
        result = rlhf("chat", policy, "-C", small_world, "--prompt", "red")
        told = f"{config} holds no JSON object. Save the model again" in result.stderr
        assert (result.exit_code, told) == (11, True), text
    for architectures in (5, [5]):  # the weights say what it is
        config.write_text(json.dumps(sound | {"architectures": architectures}))
        assert rlhf("chat", policy, "-C", small_world, "--prompt", "red").exit_code == 0, architectures


def test_a_damaged_policy_of_the_workspace_does_not_answer(
    rlhf: Callable[..., Result], small_world: Path, policy: Path
) -> None:
    kept = small_world / "models/policy/dpo"
    shutil.copytree(policy, kept)
    write_manifest(kept)
    assert rlhf("chat", "dpo", "-C", small_world, "--prompt", "red").exit_code == 0
    weights = kept / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    result = rlhf("chat", "dpo", "-C", small_world, "--prompt", "red")
    assert (result.exit_code, str(weights) in result.stderr) == (11, True)


def test_a_reward_model_cannot_answer(rlhf: Callable[..., Result], small_world: Path, policy: Path) -> None:
    from rlhf.models.loading import save_model, scalar_model_from
    from tests.algorithms.tiny import tiny_tokenizer

    reward = policy.with_name("helpful")
    save_model(scalar_model_from(policy, 0), tiny_tokenizer(), reward, title="tiny", summary="A test.")
    result = rlhf("chat", reward, "-C", small_world)
    assert result.exit_code == 11
    assert "cannot answer" in result.stderr
