"""Places: where to run, kept apart from what to run.

`debug` and `local` are built in. `places.toml` of the working folder, then the user's own, may set their
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
    """A place that cannot be used, in one line."""


@dataclass(frozen=True, kw_only=True)
class SlurmPlace:
    """How jobs are asked for. An empty string leaves a directive to the cluster."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""  # instead of the count of GPUs, where a cluster wants a type: `gpu:a100:1`
    exclude: str = ""  # nodes
    mem: str = ""  # a node's, as sbatch reads it: `16G`
    time: int = 60  # minutes
    gpus: int = 0  # of a trial whose sweep file does not say
    parallelism: int = 256  # array tasks at once
    trials_per_task: int = 1  # in turn
    array_limit: int = 1000  # tasks of one array, where the cluster's own limit is not lower
    warning_seconds: int = 120  # before the time limit, and before preemption where the cluster warns by it
    setup: tuple[str, ...] = ()  # shell lines before Python starts
    environment: Mapping[str, str] = field(default_factory=dict)
    directives: Mapping[str, Any] = field(default_factory=dict)  # any further `#SBATCH --key=value`
    python: str = ""  # the command that starts Python on a node; empty: this one's
    launch: str = "array"  # trials as tasks of an array; `ray`: a Ray cluster inside one job of `nodes`
    nodes: int = 1  # of that job
    trials_per_node: int = 1  # of that job, at once


@dataclass(frozen=True, kw_only=True)
class RayPlace:
    """A Ray cluster that is there already. What it is asked for is beside the sweep file's `[resources]`."""

    address: str = "auto"  # `http://host:8265`: by jobs; `auto` or `host:port`: this process is the driver
    store: str = ""  # the folder of sweeps as the driver sees it; for jobs it has to be said
    shared: bool = (
        True  # whether all nodes see that folder; false: what they make is sent to the driver's node
    )
    memory: str = ""  # of a trial that does not say: `4G`
    resources: Mapping[str, float] = field(default_factory=dict)  # custom ones of a trial
    exclude: tuple[str, ...] = ()  # of what is shipped to the cluster: patterns of paths, as `notes/*`
    environment: Mapping[str, str] = field(default_factory=dict)
    token_path: str = ""  # a file with the cluster's token; empty: as Ray's own RAY_AUTH_… variables say
    python: str = "python"  # the command that starts Python on the cluster

    @property
    def takes_jobs(self) -> bool:
        """Whether the address is that of a job server."""
        return self.address.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place of one kind.

    `cpus` and `gpus` are what the sweep may use of this machine in all (`debug`, `local`); None: everything.
    """

    name: str
    kind: str
    data: Path | None = None
    cpus: int | None = None
    gpus: int | None = None
    slurm: SlurmPlace | None = None
    ray: RayPlace | None = None


def places_files() -> tuple[Path, ...]:
    """Where places are looked up, first match first."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (Path("places.toml"), home / "mixsweep" / "places.toml")


def find_place(name: str) -> Place:
    """The place with this name.

    Raises:
        PlaceError: there is none, or its table is wrong; with the file, the key and what is allowed.
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
    made = RayPlace(**values)
    if not made.takes_jobs and made.address != "auto" and not _HOST_AND_PORT.fullmatch(made.address):
        raise reader.error(
            f"{at}address", f"{made.address!r} is neither http://HOST:8265 nor HOST:PORT nor auto"
        )
    if made.takes_jobs and not made.store.startswith("/"):
        raise reader.error(
            f"{at}store", "write the folder of sweeps on the cluster, from / on: jobs need one"
        )
    return made


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
