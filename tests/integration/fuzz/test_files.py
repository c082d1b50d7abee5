"""Sweep files, places and `--set`, whatever is in them: a plan or one line, within seconds and in bounded memory."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st

from mixsweep.cluster.places import KINDS, RayPlace, SlurmPlace, find_place
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.core.toml.keys import declared_keys
from mixsweep.sweep.planning.parse import load_spec, parse_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan
from tests.integration.fuzz.inputs import ODD_VALUES, ODD_WORDS, SCALARS, TREES, VALUES, fuzz, mutated_presets

SECONDS = 20  # for one input; a busy machine is no failure
MEGABYTES = 3000  # of address space, of a process that plans
MOST_ROWS = 300  # a plan of more is counted, not expanded, so that a campaign has many examples


def outcome(act: Callable[[], object]) -> str:
    """Do something with an input; return the one line that refuses it, '' if it is taken."""
    begun = time.monotonic()
    try:
        act()
        said = ""
    except UserError as error:
        said = str(error)
        assert said.strip()
        assert len(said.splitlines()) == 1, said
        said.encode("utf-8", "backslashreplace")
    assert time.monotonic() - begun < SECONDS
    return said


def plan_of(tree: dict[str, Any], folder: Path) -> None:
    """Read, plan and store a sweep file; what is stored reads back."""
    file = folder / "fuzz.toml"
    file.write_bytes(tomli_w.dumps(tree).encode())
    spec = load_spec(file)
    sizes = [
        len(axis.get("grid_search", "")) or part.samples
        for part in spec.parts
        for axis in part.space.values()
    ]
    if any("grid_search" not in axis for part in spec.parts for axis in part.space.values()):
        return  # drawn with Ray, which has tests of its own
    if len(spec.seeds) * max([1, *sizes]) > MOST_ROWS:
        return
    plan = make_plan(spec)
    store = SweepStore(folder / "runs" / spec.name)
    save_plan(plan, store)
    assert make_plan(parse_spec(store.sweep_file())).trials == plan.trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz(80)
@given(tree=mutated_presets())
def test_a_mutated_sweep_file_is_planned_or_one_line(tree: dict[str, Any], folder: Path) -> None:
    outcome(lambda: plan_of(tree, folder))


@fuzz(60)
@given(tree=TREES)
def test_any_tree_is_planned_or_one_line(tree: dict[str, Any], folder: Path) -> None:
    outcome(lambda: plan_of(tree, folder))


@fuzz(60)
@given(text=st.binary(max_size=60) | st.sampled_from([b"a=" + b"[" * n for n in (50, 5000)]))
@example(text=b"seeds = 0x" + b"f" * 5000)
@example(text=b"imports = ['\\u0000']\nproject = \"\\u0000\"")
@example(text=b"\xff\xfe")
@example(text=b"a" * 5 + b".".join([b"b"] * 3000) + b" = 1")
def test_any_bytes_are_a_sweep_file_or_one_line(text: bytes, folder: Path) -> None:
    file = folder / "bytes.toml"
    file.write_bytes(text)
    outcome(lambda: make_plan(load_spec(file)))


SETTING_KEYS = st.sampled_from([
    "base", "base.epochs", "base.lr", "parts", "parts.0", "parts.0.base.epochs", "parts.9.base",
    "parts.-1", "seeds", "name",
    "metric", "space.lr", "space.lr.grid_search", "search.trials", "stopping.rule",
    "claims.0.better", "resources.cpus",
    "samples", "question", "imports", "project", "base..epochs", ".", "..", "", "=", "x" * 3000,
    "a." * 200, "base.\udcff",
])  # fmt: skip


@fuzz(80)
@given(
    preset=st.sampled_from(["demo", "learning-rates"]),
    settings=st.lists(
        st.tuples(SETTING_KEYS, st.sampled_from(ODD_WORDS) | SCALARS.map(str) | st.text(max_size=9)),
        max_size=3,
    ),
)
@example(preset="demo", settings=[("question", "\udcff")])
@example(preset="demo", settings=[("base.epochs", "1\nx = 2")])
@example(preset="demo", settings=[("seeds", "0x" + "f" * 5000)])
def test_any_setting_is_taken_or_one_line(preset: str, settings: list[tuple[str, str]], folder: Path) -> None:
    def act() -> None:
        spec = load_spec(preset, [f"{key}={value}" for key, value in settings])
        spec.to_toml().encode()
        if len(spec.seeds) * max(part.samples for part in spec.parts) <= MOST_ROWS:
            make_plan(spec)

    outcome(act)


PLACE_KEYS = st.sampled_from(
    [*declared_keys(SlurmPlace), *declared_keys(RayPlace), "kind", "data", "cpus", "é", ""]
)


@fuzz(100)
@given(
    kind=st.sampled_from(KINDS),
    table=st.dictionaries(
        PLACE_KEYS,
        VALUES | st.sampled_from(ODD_VALUES) | st.sampled_from(["a", "http://h:1", "4G", "auto", "/s", 1, 5]),
        max_size=6,
    ),
)
def test_any_place_is_read_or_one_line_and_its_texts_are_lines(
    kind: str, table: dict[str, Any], folder: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        Path("places.toml").write_bytes(tomli_w.dumps({"x": {"kind": kind, **table}}).encode())

        def act() -> None:
            place = find_place("x")
            if place.slurm:
                texts = [
                    *place.slurm.setup,
                    place.slurm.partition,
                    place.slurm.python,
                    *map(str, place.slurm.directives),
                ]
                assert not any("\n" in text or "\0" in text for text in texts)

        outcome(act)


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))


@pytest.mark.parametrize(
    "text",
    [
        'samples = 100000000\n[space]\nlr = { uniform = [0.1, 0.2] }',
        "seeds = 10000\n[space]\n"
        + "\n".join(
            f"{name} = {{ grid_search = {list(range(1, 90))} }}"
            for name in ("batch_size", "epochs", "lr", "weight_decay")
        ),
        "[search]\ntrials = 9000000000000\n[space]\nlr = { uniform = [0.1, 0.2] }",
        "a = " + "[" * 100_000,
        "seeds = 0x" + "f" * 1_000_000,
        "[base]\nhidden = [" + "9," * 200_000 + "]",
        "question = '" + "x" * 5_000_000 + "'",
    ],
    ids=["samples", "grids", "trials", "nested", "digits", "widths", "long"],
)  # fmt: skip
def test_a_huge_sweep_file_is_answered_within_seconds_and_bounded_memory(text: str, tmp_path: Path) -> None:
    (tmp_path / "huge.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mixsweep", "plan", "huge.toml"],
        cwd=tmp_path, preexec_fn=_bounded, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, 2), done.stderr[-500:]
    assert "Traceback" not in done.stderr
