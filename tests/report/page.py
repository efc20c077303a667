"""A page as a browser sees it."""

from html.parser import HTMLParser

STRICT = {"default-src": "'none'", "style-src": "'unsafe-inline'", "base-uri": "'none'", "form-action": "'none'"}


class Page(HTMLParser):
    """Counts elements, and checks that each one that opens is closed in its turn."""

    EMPTY = frozenset({"meta", "br", "img", "input", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)

    @property
    def policy(self) -> dict[str, str]:
        """What the page lets a browser do: directives of its Content-Security-Policy."""
        place = self.attributes.index(("http-equiv", "Content-Security-Policy"))
        name, policy = self.attributes[place + 1]
        assert name == "content"
        return {
            kind: allowed for kind, _, allowed in (part.strip().partition(" ") for part in (policy or "").split(";"))
        }

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
