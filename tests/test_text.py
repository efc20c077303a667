"""Text from outside stays text, whatever it is put into. What reads the Markdown here has no part in writing it."""

import re

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from rlhf.text import markdown, visible

HOSTILE = "](javascript:alert(1)) [x](http://y) <img onerror=alert(1)> `a` | *b* _c_ ~~d~~ &lt; \\" + "\n\u202e\x1b[1m"
SHOWN = escapeHtml(visible(" ".join(HOSTILE.split())))  # as HTML
MARKS = st.sampled_from([*"\\`*_[]()<>|~&!:\n\r\t #-", "](javascript:1)", "<b>", "&#96;", "\\|", "```", "\u2028"])


@given(st.lists(MARKS | st.text(max_size=3), max_size=9).map("".join))
@example(HOSTILE)
def test_text_in_markdown_is_shown_as_it_is(text: str) -> None:
    cells = f"| a | b |\n|---|---|\n| {markdown(text)} | [{markdown(text)}.](#x) |"
    found = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(cells)
    shown = escapeHtml(visible(" ".join(text.split())))
    row = f'<td>{shown}</td>\n<td><a href="#x">{shown}.</a></td>'
    assert re.sub(r".*<tbody>\n<tr>\n|\n</tr>.*", "", found, flags=re.DOTALL) == row
