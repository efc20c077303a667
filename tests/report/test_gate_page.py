"""The page of the gate says why, states the digest of its decision, and is as safe to open as it is to keep."""

import hashlib
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlhf.gate.records import DECISION
from rlhf.report.gate import render_gate
from rlhf.tracking.standing import decided
from tests.report.conftest import made_decision, made_row, write_json
from tests.report.page import STRICT, Page

ROWS = [made_row(index, "dpo") for index in range(40)]


@pytest.fixture
def html(workspace: Path) -> str:
    return render_gate(workspace, decided(workspace))


def test_hostile_text_stays_text(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert not {"script", "img", "b"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    hostile = "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; &lt;img src=x onerror=alert(1)&gt; ⟨U+202E⟩gnp.exe"
    assert html.count(hostile) >= 4  # the reason of a check, twice; an answer of each policy
    assert html.count("&lt;b&gt;extraction&lt;/b&gt;") == 2
    assert "{{ 7 * 7 }}" in html
    assert "\u202e" not in html


def test_nothing_is_fetched_and_nothing_runs(html: str) -> None:
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert Page(html).policy == STRICT
    attributes = Page(html).attributes
    assert "src" not in {name for name, _ in attributes}
    assert all(value and value.startswith("#") for name, value in attributes if name in ("href", "xlink:href"))


def test_a_page_for_everyone(html: str) -> None:
    page = Page(html)
    assert page.tags.count("h1") == 1
    assert ("lang", "en") in page.attributes
    assert page.tags.count("table") == page.tags.count("caption")
    assert page.tags.count("svg") == page.attributes.count(("aria-hidden", "true"))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in page.attributes if name == "href" and value} <= set(ids)


def test_it_states_the_digest_of_the_file_and_follows_from_it(workspace: Path, html: str) -> None:
    file = workspace / DECISION
    assert f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" in html
    assert render_gate(workspace, decided(workspace)) == html
    file.write_text(file.read_text() + "\n")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in render_gate(workspace, decided(workspace))


def test_it_says_what_would_be_replaced(workspace: Path, html: str) -> None:
    assert "champion of generation 3, <code>ffffffffffff</code>" in html
    first = made_decision().to_json() | {"champion": None, "generation": 0}
    write_json(workspace / DECISION, first)
    assert "it would be the first champion" in render_gate(workspace, decided(workspace))


def test_what_is_in_the_way_is_said_and_drawn(html: str) -> None:
    winner, _, loser = html.partition("<h2>PPO")
    assert "Nothing: every check that can stop a promotion passes." in winner
    reasons = re.findall(r"<li>.*?</li>", loser.partition("The checks in one picture")[0], re.DOTALL)
    names = [re.search(r"<strong>(.*?)</strong>", reason) for reason in reasons]
    assert [name[1] for name in names if name] == [
        *("kl", "capability", "serves", "better than champion", "gold gain"),
        "lm loss",  # a warning, and so apart and last
    ]
    assert "the files do not load in a fresh process: KeyError lm_head.weight." in reasons[2]
    assert "About 8,120 prompts would settle it." in reasons[3]
    picture = loser[loser.index("<figure") : loser.index("</figure>")]
    assert picture.count('<use href="#fail"') == 2
    assert picture.count('<use href="#left"') == 1
    assert len(re.findall('<use href="#undecided"', picture)) == 1


def test_every_check_is_in_the_picture_or_the_list_and_in_the_table(html: str) -> None:
    for candidate in made_decision().candidates:
        section = html[html.index(f"<h2>{candidate.algorithm.upper()}") :]
        pictured = section[section.index("<figure") : section.index("</dl>")]
        table = section[section.index("<table") : section.index("</table>")]
        for check in candidate.checks:
            name = check.name.replace("_", " ")
            assert len(re.findall(rf">{name}(<| )", pictured)) == 1, name
            assert table.count(f'<th scope="row">{name}</th>') == 1
        assert pictured.count('<div class="line">') == sum(check.low is not None for check in candidate.checks)


def test_examples_are_the_largest_differences_from_the_champion_or_else_from_sft(workspace: Path, html: str) -> None:
    assert shown(html) == [*largest("champion"), "000", "001", "002"]
    assert "<h5>the champion <small>gold 0.5</small></h5>" in html
    for name in ("ppo", "dpo"):
        path = workspace / "reports/evaluate" / name / "rows/rows.parquet"
        table = pq.read_table(path)
        pq.write_table(table.drop_columns([c for c in table.column_names if c.startswith("champion")]), path)
    first = render_gate(workspace, decided(workspace))
    assert shown(first) == [*largest("sft"), "003", "004", "005"]
    assert largest("sft") != largest("champion")


def shown(html: str) -> list[str]:
    """Ids of the examples of the first policy."""
    section = html[html.index("Answers side by side") : html.index("Every check")]
    return re.findall(r'<p class="of"><bdi>\w+</bdi> <small><bdi>(\d+)</bdi></small>', section)


def largest(opponent: str) -> list[str]:
    """Ids of the three prompts that were won by most, then of the three that were lost by most."""
    gains = {row["prompt_id"]: row["policy_gold"] - row[f"{opponent}_gold"] for row in ROWS}
    ranked = sorted(gains, key=lambda prompt: gains[prompt])
    return [*ranked[:-4:-1], *ranked[:3]]
