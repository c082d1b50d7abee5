"""README and docs are true: links, files, commands and options exist, examples run, tables agree with the code."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

import mixsweep
from mixsweep import TrialConfig, make_plan, parse_spec
from mixsweep.cluster.places import RayPlace, SlurmPlace, find_place
from mixsweep.core.failures import POLICIES
from mixsweep.core.store.trial.info import STATES
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.cli.app import app
from mixsweep.sweep.planning.schema import Resources
from mixsweep.sweep.planning.search_schema import Search
from tests.support.commands import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

# Described already, and not here yet: each name leaves this list when what it names arrives.


@dataclass(frozen=True)
class Block:
    """A fenced block of code in a page."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.text.strip().splitlines()[0]}"


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(language: str, *pages: Path) -> list[Block]:
    found = []
    for page in pages or PAGES:
        for indent, name, text in re.findall(
            r"^( *)```(\S*)\n(.*?)^ *```$", read(page), flags=re.DOTALL | re.MULTILINE
        ):
            if name == language:
                found.append(Block(page, name, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)))
    return found


def prose(page: Path) -> str:
    return re.sub(r"^( *)```.*?^ *```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What stands as code within sentences."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def rows(page: Path, heading: str = "") -> dict[str, list[str]]:
    """The tables under a heading (else of the page): by each name that a first cell has as code, the cells."""
    text = prose(page)
    if heading:
        text = re.split(rf"^## {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
        text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not heading or heading in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_repository_that_is_named_exists(page: Path) -> None:
    if page.name == "log.md":
        return  # it tells of its time
    for span in spans(page):
        if re.fullmatch(r"(core|cluster|analysis|sweep|mixsweep|tests|docs)/[\w/.-]*", span):
            assert (ROOT / span).exists(), span


def test_every_page_is_in_the_menu_of_the_site() -> None:
    listed = {
        line for block in blocks("{toctree}", DOCS / "index.md") for line in block.text.splitlines() if line
    }
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES[1:]} - {"index"}
    assert pages == {line for line in listed if not line.startswith(":")}


def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def command_lines() -> Iterator[list[str]]:
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield from (shlex.split(part, comments=True) for part in re.split(r"&&|;", line))
    for page in PAGES:
        yield from (shlex.split(span.replace("'", "")) for span in spans(page))


def test_every_command_line_parses() -> None:
    used = 0
    for words in command_lines():
        if words[:3] == ["python", "-m", "mixsweep"]:
            words = ["sweep", *words[3:]]
        if words[:1] != ["sweep"] or len(words) < 2 or words[1].startswith("-") or words[1].isupper():
            continue
        used += 1
        _, name, *rest = words
        command = commands()[name]
        if command.context_settings.get("ignore_unknown_options"):
            continue  # `agent` takes a trial's fields
        options = {o for parameter in command.params for o in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= options | {"--help"}, " ".join(words)
    assert used > 60


def test_the_page_on_commands_lists_every_command_with_its_options() -> None:
    page = DOCS / "reference" / "commands.md"
    for name, command in commands().items():
        told = {word for cell in rows(page, name) for word in cell.split() if word.startswith("-")}
        has = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
        for option in has:
            assert told & {*option.opts, *option.secondary_opts}, f"{name}: {option.opts}"
        assert told <= {o for option in has for o in (*option.opts, *option.secondary_opts)}, name
    assert {f"sweep {name}" for name in commands()} <= rows(page).keys()


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), flags=re.MULTILINE))
    named = {word for page in PAGES for span in spans(page) for word in re.findall(r"^make ([a-z]+)$", span)}
    named |= {word for block in blocks("sh") for word in re.findall(r"^make ([a-z]+)", block.text)}
    assert {"demo", "test", "check", "docs"} <= named <= targets


def is_sweep_file(table: dict[str, object]) -> bool:
    return "space" in table or "parts" in table


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_toml_block_is_a_sweep_file_that_plans_or_a_place(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tomllib.loads(block.text)
    for file in blocks("python", block.page):
        if named := re.match(r"# (\S+\.py)\n", file.text):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
    for name in table.get("command", {}).get("code", []):  # of the example that a page shows
        shutil.copy(ROOT / "examples" / table["name"] / name, tmp_path)
    if is_sweep_file(table):
        plan = make_plan(parse_spec(table, tmp_path / "sweep.toml"))
        assert plan.trials or plan.spec.search
    elif any("kind" in value for value in table.values()):
        monkeypatch.chdir(tmp_path)
        Path("places.toml").write_text(block.text, encoding="utf-8")
        for name, values in table.items():
            assert find_place(name).kind == values["kind"]
    else:  # a piece of a sweep file
        parse_spec({"name": "piece", **table})


def test_the_readmes_sweep_file_plans_fifteen_trials() -> None:
    (block,) = blocks("toml", ROOT / "README.md")
    assert len(make_plan(parse_spec(tomllib.loads(block.text))).trials) == 15


def test_the_tutorials_ids_are_those_of_its_sweep_file() -> None:
    page = DOCS / "tutorial" / "first-sweep.md"
    (file,) = blocks("toml", page)
    ids = [config.trial_id for config in make_plan(parse_spec(tomllib.loads(file.text))).trials]
    shown = [i for block in blocks("text", page) for i in re.findall(r"^[0-9a-f]{12}\b", block.text, re.M)]
    assert shown == ids[: len(shown)]
    assert shown
    prefix = re.search(r"sweep show (\w+)", read(page))
    assert prefix
    assert sum(trial_id.startswith(prefix[1]) for trial_id in ids) == 1


def test_the_page_on_sweep_files_lists_every_key_with_its_default() -> None:
    from mixsweep.sweep.planning.schema import TOP_KEYS

    page = DOCS / "reference" / "sweep-files.md"
    for name, value in (TrialConfig().to_mapping() | {"activation": None}).items():
        assert rows(page, "`[base]` and `[space]`")[name][-1].rstrip(" |") == (
            "–" if value in (None, "") else str(value)
        ), name
    assert rows(page, "`[resources]`").keys() >= vars(Resources()).keys()
    search = rows(page, "`[search]`")
    default = vars(Search(algorithm="tpe"))
    assert search.keys() == default.keys() - {"algorithm"}
    for name, value in default.items():
        assert name in ("algorithm", "mutate") or search[name][-1].rstrip(" |") == f"`{value}`", name
    text = read(page)
    for key in TOP_KEYS:
        assert f"`{key}`" in text or f"`[{key}]`" in text or f"`[[{key}]]`" in text, key


def test_the_page_on_places_lists_every_option_with_its_default() -> None:
    page = DOCS / "reference" / "places.md"
    for heading, default in (("`ray`", RayPlace()), ("`slurm`", SlurmPlace())):
        table = rows(page, heading)
        assert table.keys() == {"option"} | vars(default).keys() or table.keys() == vars(default).keys()
        for name, value in vars(default).items():
            shown = f'"{value}"' if isinstance(value, str) else str(value).lower()
            assert table[name][1] == (f"`{shown}`" if value not in ("", (), {}) else "–"), name


def test_the_page_on_the_store_lists_columns_states_and_kinds_of_failure() -> None:
    page = DOCS / "reference" / "store.md"
    assert set(find_trainable().schema.names) == rows(page, "Columns of the records").keys()
    assert set(STATES) == rows(page, "States of a trial").keys()
    kinds = rows(page, "Kinds of failure")
    assert kinds.keys() == POLICIES.keys()
    for kind, policy in POLICIES.items():
        _, _, retries, after = kinds[kind]
        assert re.match(r"\d+", retries)[0] == str(policy.retries), kind  # type: ignore[index]
        assert after.rstrip(" |") == ("tries again" if policy.again else "leaves it"), kind


def test_the_page_on_python_has_every_public_name() -> None:
    page = DOCS / "reference" / "python.md"
    told = [
        name
        for block in blocks("{eval-rst}", page)
        for name in re.findall(r"^\.\. auto\w+:: mixsweep\.(\w+)$", block.text, flags=re.MULTILINE)
    ]
    assert sorted(told) == sorted(mixsweep.__all__)


def test_the_python_examples_run(tmp_path: Path) -> None:
    # In one process, each in a folder of its own: importing torch takes longer than all of them.
    script = ["import os"]
    pages = [b for b in blocks("python") if not b.text.startswith("# ")]
    assert len(pages) >= 4
    for number, block in enumerate(pages):
        folder = tmp_path / str(number)
        folder.mkdir()
        script += [
            f"os.chdir({str(folder)!r})",
            f"exec(compile({block.text!r}, {str(block)!r}, 'exec'), {{}})",
        ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        env={"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    pictures = list(tmp_path.glob("*/*.png"))
    assert len(pictures) == 2
    assert min(path.stat().st_size for path in pictures) > 10_000
