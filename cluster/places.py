"""Places: named configurations of where to run, read from `places.toml`.

`debug` and `local` are built in. The `places.toml` of the working folder, then that of the user, may set their
options or name more places.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.core.toml_reader import Reader

KINDS = ("debug", "local", "ray", "slurm")
BUILT_IN = ("debug", "local")
LAUNCHES = ("array", "ray")
_KEYS = ("kind", "data", "cpus", "gpus")
_HOST_AND_PORT = re.compile(r"[^\s/:]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5}")


class PlaceError(UserError):
    """A place that cannot be used; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class SlurmPlace:
    """The options of a place of kind `slurm`. Where one is empty, the cluster's default holds."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""  # replaces `gpus` where a cluster wants a type: `gpu:a100:1`
    exclude: str = ""  # nodes not to use
    mem: str = ""  # memory per node, in sbatch's syntax: `16G`
    time: int = 60  # minutes
    gpus: int = 0  # per trial, where the sweep file sets none
    parallelism: int = 256  # array tasks that run at once
    trials_per_task: int = 1  # one after the other
    array_limit: int = 1000  # tasks per array; a lower limit of the cluster holds
    warning_seconds: int = (
        120  # from the warning to the time limit, and to preemption where the cluster warns of it
    )
    setup: tuple[str, ...] = ()  # shell lines that run before Python starts
    environment: Mapping[str, str] = field(default_factory=dict)
    directives: Mapping[str, Any] = field(default_factory=dict)  # more `#SBATCH --key=value` lines
    python: str = ""  # the command that starts Python on a node; empty: this interpreter
    launch: str = "array"  # trials as array tasks; `ray`: on a Ray cluster inside one job
    nodes: int = 1  # of the job with launch = "ray"
    trials_per_node: int = 1  # at once, with launch = "ray"


@dataclass(frozen=True, kw_only=True)
class RayPlace:
    """The options of a place of kind `ray`: an existing Ray cluster. They add to the sweep file's `[resources]`."""

    address: str = (
        "auto"  # `http://host:8265`: submit jobs; `auto` or `host:port`: this process is the driver
    )
    store: str = ""  # the folder of sweeps as the driver sees it; required for jobs
    shared: bool = True  # whether all nodes see that folder; false: results are sent to the driver's node
    memory: str = ""  # per trial, where the sweep file sets none: `4G`
    resources: Mapping[str, float] = field(default_factory=dict)  # custom resources per trial
    exclude: tuple[str, ...] = ()  # path patterns not to ship to the cluster, as `notes/*`
    environment: Mapping[str, str] = field(default_factory=dict)
    token_path: str = ""  # a file with the cluster's token; empty: Ray's RAY_AUTH_… variables hold
    python: str = "python"  # the command that starts Python on the cluster

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
    kind: str
    data: Path | None = None
    cpus: int | None = None
    gpus: int | None = None
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
            tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
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
    kind = reader.choice(table, "kind", name, KINDS, at)
    data = reader.text(table, "data", "", at)
    place = Place(name=name, kind=kind, data=Path(data).expanduser() if data else None)
    if kind == "slurm":
        return Place(name=name, kind=kind, data=place.data, slurm=_slurm(reader, table, at))
    if kind == "ray":
        return Place(name=name, kind=kind, data=place.data, ray=_ray(reader, table, at))
    reader.keys(table, _KEYS, at)
    counts = {key: reader.integer(table, key, 0, low=0, where=at) for key in ("cpus", "gpus") if key in table}
    return Place(name=name, kind=kind, data=place.data, cpus=counts.get("cpus"), gpus=counts.get("gpus"))


def _ray(reader: Reader, table: Mapping[str, Any], at: str) -> RayPlace:
    default = RayPlace()
    reader.keys(table, ("kind", "data", *vars(default)), at)
    values: dict[str, Any] = {}
    for key in ("address", "store", "memory", "token_path", "python"):
        values[key] = reader.text(table, key, getattr(default, key), at)
    values["shared"] = table.get("shared", default.shared)
    if not isinstance(values["shared"], bool):
        raise reader.error(f"{at}shared", f"{values['shared']!r} is neither true nor false")
    values["exclude"] = reader.texts(table, "exclude", at)
    values["environment"] = _environment(reader, table, at)
    values["resources"] = reader.numbers(table, "resources", at)
    reader.size(table, "memory", at)
    place = RayPlace(**values)
    if not place.takes_jobs and place.address != "auto" and not _HOST_AND_PORT.fullmatch(place.address):
        raise reader.error(
            f"{at}address", f"{place.address!r} is neither http://HOST:8265 nor HOST:PORT nor auto"
        )
    if place.takes_jobs and not place.store.startswith("/"):
        raise reader.error(
            f"{at}store", "give the absolute path of the folder of sweeps on the cluster; jobs need one"
        )
    return place


def _environment(reader: Reader, table: Mapping[str, Any], at: str) -> dict[str, str]:
    values = dict(reader.table(table, "environment", at))
    for key, value in values.items():
        if not isinstance(value, str):
            raise reader.error(f"{at}environment.{key}", f"{value!r} is not a string")
    return values


def _slurm(reader: Reader, table: Mapping[str, Any], at: str) -> SlurmPlace:
    default = SlurmPlace()
    reader.keys(table, ("kind", "data", *vars(default)), at)
    values: dict[str, Any] = {}
    for key, value in vars(default).items():
        if isinstance(value, str):
            values[key] = reader.text(table, key, value, at)
        elif isinstance(value, int):
            values[key] = reader.integer(table, key, value, low=0 if key == "gpus" else 1, where=at)
        elif isinstance(value, tuple):
            values[key] = reader.texts(table, key, at)
        else:
            values[key] = dict(reader.table(table, key, at))
    reader.choice(table, "launch", default.launch, LAUNCHES, at)
    values["environment"] = _environment(reader, table, at)
    for key, value in values["directives"].items():
        if not isinstance(value, str | int):
            raise reader.error(f"{at}directives.{key}", f"{value!r} is neither a string, a number nor true")
    return SlurmPlace(**values)
