"""A page in headless Chromium: what its scripts leave in the document, and what it complains of."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")


@dataclass(frozen=True)
class Shown:
    """A page after its scripts have run.

    Args:
        document: as HTML.
        complaints: the lines of its console, errors of scripts among them.
    """

    document: str
    complaints: list[str]


def find_chromium() -> str | None:
    """The path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def show(chromium: str, page: Path, script: str, folder: Path) -> Shown:
    """Open a page, run a script in it, and return what it shows.

    Args:
        chromium: the program's path.
        page: a page that needs no other file.
        script: JavaScript that runs after the page's own.
        folder: for a copy of the page and the browser's profile.
    """
    copy = folder / "page.html"
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    words += ["--enable-logging=stderr", "--dump-dom", copy.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Shown(done.stdout, complaints)
