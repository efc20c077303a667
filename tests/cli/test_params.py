"""`-S` edits params.yaml in place: comments stay, and what would not be valid is not written."""

import difflib
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from rlhf.config import load_config, load_promotion
from rlhf.config.editing import overlay, read_document, set_params
from rlhf.errors import ConfigError

ROOT = Path(__file__).parents[2]

BETA = load_config(ROOT / "params.yaml").align.dpo.beta


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    return path


def changed_lines(path: Path) -> list[str]:
    before = (ROOT / "params.yaml").read_text().splitlines()
    lines = difflib.unified_diff(before, path.read_text().splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and not line.startswith(("---", "+++"))]


def test_one_key_changes_one_line_and_keeps_its_comment(params: Path) -> None:
    set_params(params, ["align.dpo.beta=0.25"])
    removed, added = changed_lines(params)
    assert added == removed.replace("-", "+", 1).replace(f"{BETA} ", "0.25 ")
    assert "#" in added
    assert load_config(params).align.dpo.beta == 0.25


def test_no_change_changes_no_byte(params: Path) -> None:
    set_params(params, ["seed=0"])
    assert params.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_values_of_every_kind(params: Path) -> None:
    set_params(params, ["align.algorithms=[dpo]", "seed=7", "align.ppo.whiten_advantages=false", "label.judge=none"])
    ours = ["collect.sources.0={kind: text, path: 'a b.txt'}", "evaluate.truth=none", "evaluate.judge={kind: reward}"]
    set_params(params, ours)
    config = load_config(params)
    assert config.align.algorithms == ["dpo"]
    assert config.seed == 7
    assert config.align.ppo.whiten_advantages is False
    assert config.label.judge == "none"
    assert config.collect.sources[0].model_dump() == {"kind": "text", "path": "a b.txt"}


def test_the_world_may_judge_where_it_is_one_source_of_several(params: Path) -> None:
    set_params(params, ["collect.sources=[{kind: text, path: x}, {kind: world}]"])
    config = load_config(params)
    assert (config.label.judge, config.evaluate.truth) == ("world", "world")


def test_rules_of_promotion_are_not_read_from_a_file_that_holds_a_secret(params: Path) -> None:
    """Which the rest of the settings is refused for, too."""
    params.write_text(params.read_text().replace("approvers: null", "approvers: http://me:sesame@host/signers"))
    with pytest.raises(ConfigError, match=r"`promotion\.approvers`.*secret") as refused:
        load_promotion(params)
    assert "sesame" not in str(refused.value)


def test_a_section_of_free_names_takes_another(params: Path) -> None:
    set_params(params, ["reward.criteria.helpful=0.5"])
    assert load_config(params).reward.criteria == {"overall": 1.0, "helpful": 0.5}


def test_a_link_stays_one_and_the_file_behind_it_is_edited(params: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(params)
    set_params(link, ["seed=7"])
    assert link.is_symlink()
    assert load_config(params).seed == 7


def test_a_section_that_is_replaced_keeps_the_blank_line_behind_it(params: Path) -> None:
    set_params(params, ["base.model={kind: directory, path: /models/mine}"])
    assert "\n\nsft:\n" in params.read_text()
    assert load_config(params).base.model.kind == "directory"


@pytest.mark.parametrize("text", ["2e-5", "2E-5", "0.00002", "2.0e-05", ".00002"])
def test_a_small_number_is_a_number_to_every_reader(params: Path, text: str) -> None:
    """YAML 1.1 takes 2e-5 for a text, YAML 1.2 does not; DVC and this project read the same file with one of each."""
    set_params(params, [f"sft.loop.optimizer.learning_rate={text}"])
    assert yaml.safe_load(params.read_text())["sft"]["loop"]["optimizer"]["learning_rate"] == 2e-5
    assert float(YAML().load(params.read_text())["sft"]["loop"]["optimizer"]["learning_rate"]) == 2e-5


@settings(max_examples=8, deadline=None)
@example(value=1.0661784593025391e-207)
@example(value=1e22)
@given(value=st.floats(min_value=1e-300, max_value=1e300))
def test_any_positive_float_survives(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.mktemp("float") / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    set_params(path, [f"align.dpo.beta={value!r}"])
    assert load_config(path).align.dpo.beta == value


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("align.dpo.bta=1", "did you mean `align.dpo.beta`?"),
        ("algin.dpo.beta=1", "did you mean `align`?"),
        ("align.dpo=1", "`align.dpo`"),
        ("align.dpo.beta.x=1", f"`align.dpo.beta` is {BETA}, not a section"),
        ("align.dpo.beta=-1", "params.yaml with `seed`, `align.dpo.beta` as asked for: `align.dpo.beta` is -1"),
        ("align.dpo.zzz=1", "unknown key `align.dpo.zzz`; known here: beta, "),
        ("align.dpo.beta=", "`align.dpo.beta` is None"),
        ("align.dpo.beta=high", "`align.dpo.beta` is the text 'high', not a number"),
        ("align.dpo.beta=[", "not YAML"),
        ("align.algorithms=[]", "`align.algorithms`"),
        ("align.algorithms=[gdpo]", "group distributional preference optimization"),
        ("align.algorithms=[ppo, ppo]", "ppo is named more than once"),
        ("align.rloo.epochs=2", "`align.rloo`: without a probability ratio an iteration is one step"),
        (
            "align.grpo.rollout={prompts: 512, answers: 1, temperature: 1.0, batch_size: 9}",
            "`align.grpo`: rollout.answers must be 2 or more",
        ),
        ("align.ppo.loop.batch_size=10000", "`align.ppo`: loop.batch_size is 10000, and an iteration has"),
        ("align.ppo.loop.batch_size=48", "which are no whole number of steps: each would not be learned from equally"),
        ("collect.sources=[{kind: text, path: x}]", "`label.judge` and `evaluate.truth` must be `none`"),
        ("align.algorithms.9=dpo", "entries 0 to 1"),
        ("align.algorithms.²=dpo", "entries 0 to 1"),
        ("validate.revoked.0=ann", "its list is empty. Set the whole list"),
        ("reward.criteria={}", "`reward.criteria`"),
        ("reward.criteria={Help Me: 1.0}", "`reward.criteria`: `Help Me` is no name"),
        ("reward.criteria={helpful: 0.0}", "`reward.criteria.helpful` is 0.0"),
        ("reward.combine=never", "`reward.combine` is 'never'"),
        ("sft.epochs=1e308", "`sft.epochs` is 1e+308"),
        ("sft.loop.batch_size=100000000000", "`sft.loop.batch_size` is 100000000000"),
        ("sft.loop.optimizer.betas=[1.0, 1.0]", "`sft.loop.optimizer.betas.0` is 1.0"),
        ("align.dpo.epochs=1e308", "`align.dpo.epochs` is 1e+308"),
        ("align.ppo.rollout.prompts=100000000000", "`align.ppo.rollout.prompts` is 100000000000"),
        ("base.model.vocab_size=100000000000", "vocab_size` is 100000000000"),
        ("base.model.layers=100000", "layers` is 100000"),
        ("base.model.hidden_size=7", "hidden_size is 7, which 4 heads do not share in even parts"),
        ("base.model.hidden_size=12", "4 heads do not share in even parts. Take a multiple of 8"),
        ("align.ppo.kl_placement=k1", "`align.ppo`: whiten_advantages rescales the advantages in each iteration"),
        ("validate.splits.test=0.05", "`validate.splits`: the shares must sum to 1"),
        ("seed=1.5", "`seed` is 1.5"),
        ("seed", "KEY=VALUE"),
        ("=1", "KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(params: Path, assignment: str, named: str) -> None:
    before = params.read_bytes()
    with pytest.raises(ConfigError) as caught:
        set_params(params, ["seed=5", assignment])
    assert named in str(caught.value)
    assert params.read_bytes() == before


def test_an_overlay_replaces_lists_and_other_kinds_and_merges_the_rest(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("a: {x: 1, y: 2} # why\nb: [1, 2]\nm: {kind: one, p: 1}\n")
    (tmp_path / "above.yaml").write_text("a: {y: 3}\nb: [9]\nm: {kind: two, q: 2}\n")
    document = read_document(tmp_path / "below.yaml")
    overlay(document, read_document(tmp_path / "above.yaml"))
    assert document == {"a": {"x": 1, "y": 3}, "b": [9], "m": {"kind": "two", "q": 2}}
