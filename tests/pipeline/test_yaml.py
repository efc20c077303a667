"""YAML is read by everybody alike, or not at all."""

from pathlib import Path

import pytest
import yaml

from rlhf.config import load_config
from rlhf.config.reading import parse_yaml, read_yaml
from rlhf.errors import ConfigError
from rlhf.pipeline.graph import load_graph

BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "an alias; write the value out"),
        ("a: &a [*a]", "an alias"),
        ("a: " + "[" * 100_000, "nested more than 50 deep"),
        ("a: !!python/object/apply:os.mkdir [canary]", "a tag"),
        ("a: !!python/name:os.system", "a tag"),
        ("a: !!timestamp x", "a tag"),
        ("a: {b: 1, c: 2, b: 3}", "`b` stands here twice"),
        ("a: 1\n'a': 1", "`a` stands here twice"),
        ("a:\n\tb: 1", r"a tab; indent by spaces \(line 2, column 1\)"),
        ("a: 010", "an integer that YAML 1.1 and 1.2 read differently"),
        ("a: 0x10", "an integer that YAML 1.1 and 1.2 read differently"),
        ("a: 1_000", "an integer that YAML 1.1 and 1.2 read differently"),
        ("a: 1:30", "an integer that YAML 1.1 and 1.2 read differently"),
        ("a: 1:30.5", "a number in YAML 1.1 and text in 1.2"),
        ("a: 1_0.5", "a number in YAML 1.1 and text in 1.2"),
        ("a: no", "`no` is a boolean in YAML 1.1"),
        ("a: {on: 1}", "`on` is a boolean"),
        ("a: 2020-02-31", "not YAML"),
        ("é: b\na: \x00", r"^here is not YAML: control characters are not allowed \(line 2, column 4\)$"),
        ("? [a]\n: 1", "unhashable key"),
        ("- a", "must hold a mapping, not list"),
        ("", "must hold a mapping, not NoneType"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "here")
    assert not list(tmp_path.iterdir())


def test_what_is_said_in_quotes_or_plainly_stays() -> None:
    text = "a: 'no'\nb: '010'\nc: true\nd: -10\ne: 0\nf: 1.5e-3\ng: ${HOME}\nh: [{x: 1}, {x: 1}]\ni: null"
    plain = {"a": "no", "b": "010", "c": True, "d": -10, "e": 0, "f": 1.5e-3, "g": "${HOME}", "h": [{"x": 1}] * 2}
    assert parse_yaml(text, "here") == plain | {"i": None}


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: x" + "é" * (1 << 20))  # the limit lies within a letter
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
        read_yaml(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 0", "seed: 00", "an integer that YAML 1.1 and 1.2 read differently"),
        ("kl_coefficient: 0.1", "kl_coefficient: .nan", "kl_coefficient.*finite number"),
        ("seed: 0", "seed: ${SEED}", r"`seed` is the text '\${SEED}', not a number"),
        ("seed: 0", "seed: '7'", r"`seed` is the text '7', not a number\. Write 7, without"),
        ("kl_coefficient: 0.1", "kl_coefficient: 1e-5", r"is the text '1e-5', not a number\. Write 1\.0e-05, without"),
        ("kl_coefficient: 0.1", "kl_coefficient: '0,25'", r"is the text '0,25', not a number\. Write 0\.25, without"),
        (
            "    kind: gold #",
            "    kind: golden #",
            "`evaluate.judge.kind` is 'golden', and may be gold, reward, referee",
        ),
        (
            "    use_case: [gen",
            "    use_cases: [gen",
            "no column use_cases to slice its prompts by, but use_case, kind",
        ),
        ("seed: 0", "seed: 0\nseed: 1", "`seed` stands here twice"),
    ],
)
def test_params(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "C:\\",
        "a/b",
        "-rf",
        "$(id)",
        "a\nb",
        "x" * 300,
        "é",
        "e\u0301",
        ".",
        "..",
        "a b",
        "a;b",
        "",
    ],
)
def test_an_item_of_a_stage_is_a_name(workspace: Path, name: str) -> None:
    """It becomes part of paths, and of a command that DVC hands to a shell."""
    params = read_yaml(workspace / "params.yaml")
    params["model"] |= {"kinds": [name], name: {"repeats": 1}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ConfigError, match="is no name"):
        load_graph(workspace)
