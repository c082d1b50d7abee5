"""cluster.places: the built-in places, and those of places.toml."""

import re
from pathlib import Path

import pytest

from mixsweep.cluster.places import Place, PlaceError, RayPlace, find_place


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """places.toml of the working folder, and the user's own; neither exists yet."""
    here, user = tmp_path / "here", tmp_path / "config" / "mixsweep"
    here.mkdir()
    user.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return here / "places.toml", user / "places.toml"


def test_debug_and_local_exist_without_a_places_file(folders: tuple[Path, Path]) -> None:
    assert find_place("debug") == Place(name="debug", kind="debug")
    assert find_place("local") == Place(name="local", kind="local")


def test_the_working_folders_places_come_before_the_users(folders: tuple[Path, Path]) -> None:
    here, user = folders
    user.write_text("[local]\ncpus = 8\n[big]\nkind = 'local'\ngpus = 4\ndata = '~/images'\n")
    assert find_place("local").cpus == 8
    assert find_place("big") == Place(name="big", kind="local", gpus=4, data=Path.home() / "images")
    here.write_text("[local]\ncpus = 2\n")
    assert find_place("local").cpus == 2
    assert find_place("big").gpus == 4
    assert find_place("debug").cpus is None


def test_without_a_configuration_folder_the_home_folders_is_read(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".config" / "mixsweep" / "places.toml"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xef\xbb\xbf[home]\nkind = 'debug'\n")
    assert find_place("home").kind == "debug"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "locl", "--place locl: no such place; did you mean 'local'?"),
        ("[lab]\nkind = 'local'\n", "lap", "--place lap: no such place; did you mean 'lab'?"),
        ("", "moon", "--place moon: no such place; allowed: debug, local"),
        ("[x]\nkind = 'locl'\n", "x", "places.toml: x.kind: 'locl' is not known; did you mean 'local'?"),
        ("[x]\ncpus = 1\n", "x", "places.toml: x.kind: 'x' is not known; allowed: debug, local"),
        ("[x]\nkind = []\n", "x", "places.toml: x.kind: [] is not a string"),
        ("[x]\nkind = 'local'\ncpu = 1\n", "x", "places.toml: x.cpu: unknown key; did you mean 'cpus'?"),
        ("[local]\ncpus = -1\n", "local", "places.toml: local.cpus: -1 is not an integer of 0 or more"),
        ("[local]\ncpus = true\n", "local", "places.toml: local.cpus: True is not an integer of 0 or more"),
        ("[local]\ngpus = 0.5\n", "local", "places.toml: local.gpus: 0.5 is not an integer of 0 or more"),
        ("[local]\ndata = 3\n", "local", "places.toml: local.data: 3 is not a string"),
        ("local = 3\n", "local", "places.toml: local: 3 is not a table"),
        ("local = \n", "local", "places.toml: not a TOML file: Invalid value (at line 1, column 9)"),
        ("x = " + "9" * 5000, "local", "places.toml: not a TOML file: "),
    ],
)
def test_an_invalid_place_is_one_line_with_the_file_the_key_and_what_is_allowed(
    text: str, name: str, said: str, folders: tuple[Path, Path]
) -> None:
    folders[0].write_text(text)
    with pytest.raises(PlaceError) as caught:
        find_place(name)
    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_text_is_one_line(folders: tuple[Path, Path]) -> None:
    folders[1].write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlaceError, match=f"{folders[1]}: not a TOML file"):
        find_place("local")


def test_a_ray_place_is_a_cluster_or_a_job_server(folders: tuple[Path, Path]) -> None:
    here, _ = folders
    here.write_text(
        "[near]\nkind = 'ray'\n[far]\nkind = 'ray'\naddress = 'http://head:8265'\nstore = '/runs'\n"
        "shared = false\nmemory = '4G'\nresources = { a100 = 1 }\nexclude = ['notes/']\n"
    )
    near, far = find_place("near").ray, find_place("far").ray
    assert near == RayPlace()
    assert not near.takes_jobs
    assert far is not None
    assert far.takes_jobs
    assert (far.shared, far.memory, dict(far.resources), far.exclude) == (
        False,
        "4G",
        {"a100": 1.0},
        ("notes/",),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("address = 'head'", "neither http://HOST:8265 nor HOST:PORT nor auto"),
        ("address = 'http://head:8265'", "store: give the absolute path"),
        ("memory = '4 GB'", "is not a size like 512M or 4G"),
        ("resources = { a100 = 0 }", "resources.a100: 0 is not a number above 0"),
        ("shared = 'no'", "shared: 'no' is neither true nor false"),
        ("stor = '/runs'", "stor: unknown key"),
    ],
)
def test_an_invalid_ray_place_is_one_line(folders: tuple[Path, Path], line: str, words: str) -> None:
    here, _ = folders
    here.write_text(f"[it]\nkind = 'ray'\n{line}\n")
    with pytest.raises(PlaceError, match=re.escape(words)):
        find_place("it")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (r'partition = "a\n#SBATCH --uid=0"', r"x.partition: 'a\n#SBATCH --uid=0' holds '\n'"),
        (r'setup = ["module load a", "b\r\nc"]', r"x.setup[1]: 'b\r\nc' holds '\r'"),
        (r'environment = { A = "1\u0000" }', r"x.environment.A: '1\x00' holds '\x00'"),
        (r'environment = { "A\nB" = "1" }', r"x.environment.A\nB: 'A\nB' holds '\n'"),
        (r'environment = { "A;B" = "1" }', "x.environment.A;B: 'A;B' is not a name like OMP_NUM_THREADS"),
        (r'directives = { "mail=a --uid" = "1" }', "x.directives.mail=a --uid: 'mail=a --uid' is not a name"),
        (r'directives = { comment = "a\u001bb" }', r"x.directives.comment: 'a\x1bb' holds '\x1b'"),
        (r'python = "python\nrm"', r"x.python: 'python\nrm' holds '\n'"),
        (f"time = {10**30}", "time: the integer does not fit into 64 bits"),
    ],
)
def test_what_would_begin_another_line_of_a_batch_script_is_refused(
    line: str, said: str, folders: tuple[Path, Path]
) -> None:
    folders[0].write_text(f"[x]\nkind = 'slurm'\n{line}\n")
    with pytest.raises(PlaceError) as caught:
        find_place("x")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
