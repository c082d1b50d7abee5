"""A report's page as a browser would load, follow and show it."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The links, ids, tags, alternative texts and words of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.alternatives: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.alternatives += [value or "" for name, value in attributes if name == "alt"]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.words += data
