"""Places: named configurations of where to run, read from `places.toml`.

`debug` and `local` are built in. The `places.toml` of the working folder, then that of the user, may set their
options or name more places.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.core.secret_text import looks_secret
from mixsweep.core.toml.keys import declared_keys, read_keys, toml_key, toml_key_by_hand
from mixsweep.core.toml.reader import Reader, parse_toml

KINDS = ("debug", "local", "ray", "slurm")
BUILT_IN = ("debug", "local")
LAUNCHES = ("array", "ray")
AUTO = "auto"
COMMON_KEYS = ("kind", "data")  # of a place of any kind
_HOST_AND_PORT = re.compile(r"[^\s/:]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIRECTIVE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class PlaceError(UserError):
    """A place that cannot be used; the message is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # a quoted key may hold a line break


@dataclass(frozen=True, kw_only=True)
class SlurmPlace:
    """The options of a place of kind `slurm`. Where one is empty, the cluster's default holds."""

    partition: str = toml_key("", "one, or several with commas; left out: the cluster's default")
    account: str = toml_key("", "who pays")
    qos: str = toml_key("", "quality of service")
    constraint: str = toml_key("", "features that nodes must have: a100")
    gres: str = toml_key("", "instead of the count of GPUs, where a cluster wants a type: gpu:a100:1")
    exclude: str = toml_key("", "nodes that get no task")
    mem: str = toml_key("", "memory of a node, as sbatch reads it: 16G")
    time: int = toml_key(60, "minutes of a job", low=1)
    gpus: int = toml_key(0, "GPUs of a trial whose sweep file does not say", low=0)
    parallelism: int = toml_key(256, "array tasks at once", low=1)
    trials_per_task: int | str = toml_key(
        AUTO, "trials that one task runs in turn; auto: as many as take some minutes", low=1, choices=(AUTO,)
    )
    array_limit: int = toml_key(1000, "tasks of one array, where the cluster's own limit is not lower", low=1)
    warning_seconds: int = toml_key(
        120, "before the time limit, and before preemption where the cluster warns by it", low=1
    )
    setup: tuple[str, ...] = toml_key((), "shell lines before Python starts")
    environment: Mapping[str, str] = toml_key({}, "environment variables of the jobs")
    directives: Mapping[str, str | int] = toml_key({}, "further #SBATCH --key=value lines")
    python: str = toml_key("", "the command that starts Python on a node; left out: this one's")
    launch: str = toml_key(
        "array",
        "array: trials are tasks of an array; ray: a Ray cluster inside one job of `nodes`",
        choices=LAUNCHES,
    )
    nodes: int = toml_key(1, "nodes of that job", low=1)
    trials_per_node: int = toml_key(1, "trials at once on each node of that job", low=1)


@dataclass(frozen=True, kw_only=True)
class RayPlace:
    """The options of a place of kind `ray`: an existing Ray cluster. They add to the sweep file's `[resources]`."""

    address: str = toml_key(
        "auto", "http://HOST:8265: by jobs; auto or HOST:PORT: this command is the driver"
    )
    store: str = toml_key("", "the folder of sweeps as the driver sees it; needed for jobs")
    shared: bool = toml_key(
        True, "whether all nodes see that folder; false: what they make is sent to the driver's node"
    )
    memory: str = toml_key("", "memory of a trial whose sweep file does not say: 4G", size=True)
    resources: Mapping[str, float] = toml_key({}, "custom resources of a trial", above=0)
    exclude: tuple[str, ...] = toml_key((), "patterns of paths that are not shipped to the cluster: notes/*")
    environment: Mapping[str, str] = toml_key({}, "environment variables on the cluster")
    token_path: str = toml_key(
        "", "a file with the cluster's token; left out: as Ray's RAY_AUTH_… variables say"
    )
    python: str = toml_key("python", "the command that starts Python on the cluster")

    @property
    def takes_jobs(self) -> bool:
        """Whether the address is a job server's."""
        return self.address.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place of one kind.

    `cpus` and `gpus` limit what a sweep may use of this machine (`debug`, `local`); None: no limit.
    """

    name: str
    kind: str = toml_key(MISSING, "what runs the trials", choices=KINDS)
    data: Path | None = toml_key_by_hand(None, "where the images lie on the machines of this place")
    cpus: int | None = toml_key(None, "CPUs that the sweep may use in all; left out: every one", low=0)
    gpus: int | None = toml_key(None, "GPUs that the sweep may use in all; left out: every one", low=0)
    slurm: SlurmPlace | None = None
    ray: RayPlace | None = None


def places_files() -> tuple[Path, ...]:
    """The files in which places are looked up, in order of precedence."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (Path("places.toml"), home / "mixsweep" / "places.toml")


def find_place(name: str) -> Place:
    """The place with this name.

    Raises:
        PlaceError: there is none, or its table is invalid; names the file, the key and what is allowed.
    """
    names = list(BUILT_IN)
    for path in places_files():
        if not path.is_file():
            continue
        try:
            tables = parse_toml(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise PlaceError(f"{path}: not a TOML file: {error}") from error
        if name in tables:
            return _place(name, tables, path)
        names += list(tables)
    if name in BUILT_IN:
        return Place(name=name, kind=name)
    raise PlaceError(f"--place {name}: no such place{did_you_mean(name, names)}")


def _place(name: str, tables: Mapping[str, Any], path: Path) -> Place:
    reader = Reader(str(path), PlaceError)
    table, at = reader.table(tables, name), f"{name}."
    _check_text(reader, table, name)
    kind = reader.choice(table, "kind", name, KINDS, at)
    data = reader.text(table, "data", "", at)
    images = Path(data).expanduser() if data else None
    if kind == "slurm":
        return Place(name=name, kind=kind, data=images, slurm=_slurm(reader, table, at))
    if kind == "ray":
        return Place(name=name, kind=kind, data=images, ray=_ray(reader, table, at))
    reader.keys(table, declared_keys(Place), at)
    return Place(name=name, kind=kind, data=images, **read_keys(reader, table, Place, at, ("cpus", "gpus")))


def _check_text(reader: Reader, value: Any, where: str) -> None:
    """Refuse control characters in keys and texts: in a batch script, a line break begins another directive."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_text(reader, key, f"{where}.{key}")
            _check_text(reader, item, f"{where}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_text(reader, item, f"{where}[{number}]")
    elif isinstance(value, str) and (found := _CONTROL.search(value)):
        raise reader.error(
            repr(where)[1:-1], f"{value!r} holds {found[0]!r}; write one line, without control characters"
        )


def _check_names(
    reader: Reader, names: Iterable[str], pattern: re.Pattern[str], where: str, like: str
) -> None:
    for name in names:
        if not pattern.fullmatch(name):
            raise reader.error(f"{where}.{name}", f"{name!r} is not a name like {like}")


def _slurm(reader: Reader, table: Mapping[str, Any], at: str) -> SlurmPlace:
    reader.keys(table, (*COMMON_KEYS, *declared_keys(SlurmPlace)), at)
    place = SlurmPlace(**read_keys(reader, table, SlurmPlace, at))
    _check_names(reader, place.environment, _VARIABLE, f"{at}environment", "OMP_NUM_THREADS")
    _check_names(reader, place.directives, _DIRECTIVE, f"{at}directives", "mail-type")
    for key, value in place.directives.items():
        if looks_secret(f"{key}={value}"):
            raise reader.error(
                f"{at}directives.{key}", "looks like a secret, which the queue shows; give it in environment"
            )
    return place


def _ray(reader: Reader, table: Mapping[str, Any], at: str) -> RayPlace:
    reader.keys(table, (*COMMON_KEYS, *declared_keys(RayPlace)), at)
    place = RayPlace(**read_keys(reader, table, RayPlace, at))
    _check_names(reader, place.environment, _VARIABLE, f"{at}environment", "OMP_NUM_THREADS")
    if not place.takes_jobs and place.address != "auto" and not _HOST_AND_PORT.fullmatch(place.address):
        raise reader.error(
            f"{at}address", f"{place.address!r} is neither http://HOST:8265 nor HOST:PORT nor auto"
        )
    if place.takes_jobs and not place.store.startswith("/"):
        raise reader.error(
            f"{at}store", "give the absolute path of the folder of sweeps on the cluster; jobs need one"
        )
    return place
