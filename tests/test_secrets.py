"""What counts as a secret, and that it is taken out of a text in whichever form it stands there."""

from pathlib import Path

import pytest
import yaml

from rlhf.config import parse_config, reading
from rlhf.config.editing import set_params
from rlhf.config.reading import read_yaml
from rlhf.errors import ConfigError, UserError
from rlhf.secrets import is_secret, redact
from tests.conftest import ROOT
from tests.judges.conftest import ENDPOINT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pa55@host:5000/x does not answer", "http://me:***@host:5000/x does not answer"),
        ("postgresql+asyncpg://rlhf:p@ss/w:rd@db/x", "postgresql+asyncpg://rlhf:***@db/x"),
        ("'https://ghp_1234@github.com/a/b'", "'https://***@github.com/a/b'"),
        ("s3://bucket/x?X-Amz-Signature=abc&b=1", "s3://bucket/x?X-Amz-Signature=***&b=1"),
        ("http://127.0.0.1:4200/runs/align@ppo", "http://127.0.0.1:4200/runs/align@ppo"),
        ("http://a:b@h, then http://c:d@i", "http://a:***@h, then http://c:***@i"),
        ("models:/policy@champion is not there; write to me@here.org", None),
        ("sqlite:////data/small@world/mlflow.db", None),
    ],
)
def test_an_address_keeps_its_user_and_loses_its_password(text: str, shown: str | None) -> None:
    assert redact(text) == (shown or text)


def test_secrets_of_the_environment_are_taken_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("ANY_API_KEY", "hf_canary_and_more")
    monkeypatch.setenv("DATABASE", "postgresql://me:sesame@db/x")
    monkeypatch.setenv("REPOSITORY", "https://ghp_canary@host/x")
    monkeypatch.setenv("SHORT_TOKEN", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    said = "hf_canary, hf_canary_and_more, sesame, ghp_canary, 1, parallel"
    assert redact(said) == "***, ***, ***, ***, 1, parallel"
    assert str(UserError(said)) == redact(said)


def test_names_of_secrets() -> None:
    secret = (
        "AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID PREFECT_API_AUTH_STRING MLFLOW_TRACKING_PASSWORD api_key apikey token "
        "PGPASSWORD MYTOKEN"
    )
    assert [name for name in secret.split() if not is_secret(name)] == []
    others = ["TOKENIZERS_PARALLELISM", "SSH_AUTH_SOCK", "tokens", "keys", "monkey"]
    assert [name for name in others if is_secret(name)] == []


@pytest.mark.parametrize(
    ("changes", "at", "message"),
    [
        ({"api_key": "sk-canary"}, "evaluate.judge.api_key", "contains a secret"),
        ({"key": "sk-canary"}, "evaluate.judge.key", "contains a secret"),
        ({"key": "hf_canary"}, "evaluate.judge.key", "contains a secret"),
        ({"url": "http://me:canary@host/v1"}, "evaluate.judge.url", "contains a secret"),
        ({"model": "canary-of-the-environment"}, "evaluate.judge.model", "contains a secret"),
        ({"url": "http://host/v1", "key": "JUDGE_KEY"}, "evaluate.judge", "unencrypted. Give an address with https"),
    ],
)
def test_params_with_a_secret_are_refused_and_do_not_show_it(
    changes: dict[str, str], at: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-of-the-environment")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"]["judge"] = ENDPOINT
    parse_config(params, "params.yaml")
    params["evaluate"]["judge"] = ENDPOINT | changes
    with pytest.raises(ConfigError, match=message) as refused:
        parse_config(params, "params.yaml")
    assert f"`{at}`" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("parser", [reading._Loader, yaml.SafeLoader], ids=["in C", "in Python"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("'canary", "quoted scalar"),
        ("{api: canary", "flow mapping"),
        ("canary: x", "mapping values are not allowed"),
        ("@canary", "cannot start any token"),
        ("!canary x", "a tag"),
        ("!!float canary", "a tag"),
        ("*canary", "an alias"),
        ('"canary \\q"', "unknown escape"),
    ],
)
def test_a_fault_of_yaml_is_told_by_its_place_and_not_quoted(
    value: str, problem: str, parser: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reading, "_Loader", parser)
    (tmp_path / "params.yaml").write_text(f"judge:\n  key: {value}\n")
    with pytest.raises(ConfigError, match=rf"params\.yaml is not YAML: .*{problem}.*line 2, column \d+") as refused:
        read_yaml(tmp_path / "params.yaml")
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("value", ["'canary", "{canary", "@canary", "*canary", "010203040506", "2020-02-31"])
def test_nor_is_a_value_that_is_set(value: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.raises(ConfigError, match=r"is not YAML|YAML 1.1 and 1.2 read differently") as refused:
        set_params(tmp_path / "params.yaml", [f"evaluate.judge.kind={value}"])
    assert value[1:] not in str(refused.value)
