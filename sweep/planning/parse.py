"""Reads a sweep file and checks every key before anything runs.

A sweep file asks one question, or several as `[[parts]]`. The trainable (core.trainables) defines the fields and
metrics of a trial and their allowed values.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mixsweep.core.errors import ConfigError, did_you_mean
from mixsweep.core.toml.keys import declared_keys, keys_beside, read_keys
from mixsweep.core.toml.reader import Reader, parse_toml
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.core.trainables.interface import Trainable
from mixsweep.sweep.planning.claims_schema import read_claims
from mixsweep.sweep.planning.combine import read_combine
from mixsweep.sweep.planning.derive import read_derive
from mixsweep.sweep.planning.schema import (
    FOLDER_NAME,
    LONGEST_NAME,
    MODES,
    MOST_REPLICAS,
    MOST_TRIALS,
    ONLY_IN_PARTS,
    PART_KEYS,
    TOP_KEYS,
    UNITS,
    Keep,
    Part,
    Resources,
    SpecError,
    Stopping,
    SweepSpec,
    read_published,
)
from mixsweep.sweep.planning.search_schema import Search, read_search
from mixsweep.sweep.planning.space import SpaceError, check_axis, count_points, fixed_values
from mixsweep.sweep.planning.user_code import read_user_code
from mixsweep.sweep.presets.catalog import PRESETS, preset_names

Table = TypeVar("Table")

_HOLDERS = ("base", "space", "derive")  # tables of a part that give a field its value


def find_sweep_file(name: str) -> Path:
    """Return the path of a sweep file or of a preset.

    Raises:
        SpecError: neither exists; with the nearest preset's name.
    """
    path = Path(name)
    try:
        if path.is_file():
            return path
        preset = PRESETS / f"{name}.toml"
        if preset.is_file():
            return preset
        if path.is_dir():
            raise SpecError(f"{name}: a folder; name a sweep file in it, or a preset")
    except (OSError, ValueError) as error:  # not a valid file name
        raise SpecError(f"{name}: no sweep file or preset: {error}") from error
    if Path(f"{name}.toml").is_file():
        raise SpecError(f"{name}: no such sweep file or preset; did you mean '{name}.toml'?")
    raise SpecError(f"{name}: no such sweep file or preset{did_you_mean(name, preset_names())}")


def load_spec(name: str | Path, settings: Iterable[str] = ()) -> SweepSpec:
    """Read and check a sweep file.

    Args:
        name: a path, or a preset's name.
        settings: `KEY=VALUE` with dotted keys and TOML values; they override the file.

    Raises:
        SpecError: one line: what is wrong, where, and what is allowed.
    """
    path = find_sweep_file(str(name))
    try:
        source = parse_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SpecError(f"{path}: not a TOML file: {error}") from error
    for setting in settings:
        _apply_setting(source, setting)
    return parse_spec(source, path)


def parse_spec(source: Mapping[str, Any], path: Path | None = None) -> SweepSpec:
    """Check the tables of a sweep file and return its spec.

    Raises:
        SpecError: as load_spec.
    """
    reader = Reader(str(path) if path else "sweep", SpecError)
    reader.keys(source, TOP_KEYS, "")
    default_name = path.stem if path else ""
    name = reader.text(source, "name", default_name)
    if not is_folder_name(name):
        raise reader.error("name", f"{name!r} is not a folder name")
    code = read_user_code(reader, source, path)
    trainable = code.trainable
    plain = read_keys(
        reader,
        source,
        SweepSpec,
        only=("question", "reaches", "cost", "score", "error", "search_seed", "code"),
    )
    metric = _metric(reader, source, trainable)
    mode = reader.choice(source, "mode", trainable.better(metric), MODES)
    base = reader.table(source, "base")
    seeds = _seeds(reader, trainable, source, base)
    for key, value in base.items():  # also where every part has its own value
        _trial_value(reader, trainable, f"base.{key}", key, value)
    if "parts" in source:
        for key in ONLY_IN_PARTS:
            if key in source:
                raise reader.error(key, "belongs inside each of [[parts]] in a file that has them")
        parts = _parts(reader, trainable, source, base)
    else:
        parts = (_part(reader, trainable, source, "", name, plain.get("question", ""), base),)
    search = read_search(
        reader, source, trainable, parts[0].space, parts[0].when, parts[0].derive, len(seeds)
    )
    _check_size(reader, trainable, parts, len(seeds), search)
    stopping = _stopping(reader, source) if "stopping" in source else None
    if stopping and "parts" in source:
        raise reader.error(
            "stopping", "not with [[parts]]: trials of several questions would compete; split the file"
        )
    named = {"name": name, "metric": metric, "mode": mode}
    keep = _read_table(reader, source, "keep", Keep)
    return SweepSpec(
        name=name,
        parts=parts,
        metric=metric,
        mode=mode,
        seeds=seeds,
        imports=code.imports,
        project=code.project,
        search=search,
        stopping=stopping,
        keep_checkpoints=keep.checkpoints,
        keep_predictions=keep.predictions,
        resources=_resources(reader, source),
        trainable=trainable,
        command=code.command,
        source={**source, **named, **code.located},
        path=path,
        user_code=code.code,
        roots=code.roots,
        **plain,
    )


def is_folder_name(name: str) -> bool:
    """Whether a sweep can have this name, which is also the name of its folder in the store."""
    printable = re.fullmatch(FOLDER_NAME, name) is not None and name.isprintable()
    return printable and len(name.encode()) <= LONGEST_NAME


def _metric(reader: Reader, source: Mapping[str, Any], trainable: Trainable) -> str:
    """The metric of the sweep: one that the trainable declares, or any of a trainable of one's own."""
    if not isinstance(trainable, DeclaredTrainable):
        return reader.choice(source, "metric", trainable.default_metric, trainable.objectives)
    metric = reader.text(source, "metric", trainable.default_metric)
    if not metric:
        raise reader.error("metric", "missing: the trainable declares no metrics, so name the one to compare")
    if metric not in trainable.objectives and "mode" not in source:
        more = did_you_mean(metric, trainable.objectives) if trainable.objectives else ""
        raise reader.error("metric", f"{metric!r} is not declared by the trainable; give its mode too{more}")
    return metric


def _seeds(
    reader: Reader, trainable: Trainable, source: Mapping[str, Any], base: Mapping[str, Any]
) -> tuple[int, ...]:
    seeds = source.get("seeds", 1)
    if "seed" not in trainable.field_names:
        if "seeds" in source and seeds not in (1, [1]):
            raise reader.error("seeds", f"{seeds!r}: the trainable has no field `seed`")
        return (0,)
    first = base.get("seed", trainable.defaults["seed"])
    if isinstance(seeds, bool) or not isinstance(seeds, int | list):
        raise reader.error("seeds", f"{seeds!r} is neither a number of replicas nor a list of seeds")
    if isinstance(seeds, list):
        for seed in seeds:
            _trial_value(reader, trainable, "seeds", "seed", seed)
        if not seeds or len(set(seeds)) < len(seeds):
            raise reader.error("seeds", f"{seeds!r} is empty or names a seed twice")
        if "seed" in base:
            raise reader.error("base.seed", f"{first!r} is not used, since `seeds` lists the seeds")
        return tuple(map(int, seeds))
    if not 1 <= seeds <= MOST_REPLICAS:
        raise reader.error(
            "seeds", f"{seeds} replicas; allowed: 1 to {MOST_REPLICAS}, or a list of seeds: [{seeds}]"
        )
    _trial_value(reader, trainable, "base.seed", "seed", first)
    _trial_value(reader, trainable, "seeds", "seed", first + seeds - 1)
    return tuple(range(int(first), int(first) + seeds))


def _parts(
    reader: Reader, trainable: Trainable, source: Mapping[str, Any], base: Mapping[str, Any]
) -> tuple[Part, ...]:
    tables = source["parts"]
    if not isinstance(tables, list) or not tables or not all(isinstance(t, Mapping) for t in tables):
        raise reader.error("parts", "write one [[parts]] table or more")
    parts = []
    for number, table in enumerate(tables):
        where = f"parts[{number}]."
        reader.keys(table, PART_KEYS, where)
        name = reader.text(table, "name", f"part-{number + 1}", where)
        question = reader.text(table, "question", "", where)
        own = reader.table(table, "base", where)
        if "seed" in own:
            raise reader.error(f"{where}base.seed", "write it in [base], so that seeds are paired")
        parts.append(_part(reader, trainable, table, where, name, question, {**base, **own}))
    for key in base:
        holders = [next((h for h in _HOLDERS if key in table.get(h, {})), None) for table in tables]
        if all(holders):
            held = holders[0]
            others = f", parts.1.{held}.{key}, …" if len(parts) > 1 else ""
            raise reader.error(
                f"base.{key}",
                f"has no effect: every part sets its own; set parts.0.{held}.{key}{others} instead",
            )
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise reader.error("parts", f"two parts have the same name among {names}")
    return tuple(parts)


def _part(
    reader: Reader,
    trainable: Trainable,
    table: Mapping[str, Any],
    where: str,
    name: str,
    question: str,
    base: Mapping[str, Any],
) -> Part:
    space = reader.table(table, "space", where)
    when = reader.table(table, "when", where)
    for key, value in reader.table(table, "base", where).items():
        _trial_value(reader, trainable, f"{where}base.{key}", key, value)
    for key, axis in space.items():
        _known_field(reader, trainable, f"{where}space.{key}", key)
        if key == "seed":
            raise reader.error(f"{where}space.seed", "write `seeds = N` instead, so that seeds are paired")
        try:
            values = check_axis(axis)
        except SpaceError as error:
            raise reader.error(f"{where}space.{key}", str(error)) from error
        for value in values:
            _trial_value(reader, trainable, f"{where}space.{key}", key, value)
        if key in reader.table(table, "base", where):
            raise reader.error(f"{where}space.{key}", "is in [base] too; keep one of the two")
    for key, conditions in when.items():
        _known_field(reader, trainable, f"{where}when.{key}", key)
        if not isinstance(conditions, Mapping) or not conditions:
            raise reader.error(f"{where}when.{key}", f"{conditions!r} is not like {{ model = 'mixer' }}")
        for other, allowed in conditions.items():
            _known_field(reader, trainable, f"{where}when.{key}.{other}", other)
            several = isinstance(allowed, list) and not trainable.field(other).is_list
            for value in allowed if several else [allowed]:
                _trial_value(reader, trainable, f"{where}when.{key}.{other}", other, value)
    check_known = partial(_known_field, reader, trainable)
    check_value = partial(_trial_value, reader, trainable)
    fixed = fixed_values(base, space, trainable.defaults_beside)
    return Part(
        name=name,
        question=question,
        base=base,
        space=space,
        when=when,
        combine=read_combine(reader, table, where, trainable, fixed, check_value),
        derive=read_derive(reader, table, where, trainable, check_known),
        published=read_published(reader, trainable, table, where),
        claims=read_claims(reader, trainable, table, where, space, check_value),
        **read_keys(reader, table, Part, where, only=("samples",)),
    )


def _check_size(
    reader: Reader, trainable: Trainable, parts: Sequence[Part], replicas: int, search: Search | None
) -> None:
    """Refuse a sweep of more trials than a store can hold, before anything is expanded."""
    if search is not None:
        key, wanted = (
            ("search.trials", search.trials)
            if search.algorithm == "tpe"
            else ("search.population", search.population)
        )
    else:
        counts = (
            count_points(
                part.space,
                part.samples,
                part.combine,
                fixed_values(part.base, part.space, trainable.defaults_beside),
            )
            for part in parts
        )
        key, wanted = "", sum(counts) * replicas
    if wanted > MOST_TRIALS:
        raise reader.error(key, f"{wanted} trials are too many; allowed: {MOST_TRIALS} in one sweep")


def _read_table(reader: Reader, source: Mapping[str, Any], name: str, table: type[Table]) -> Table:
    """Read a table, checked against the keys that its class declares."""
    values, at = reader.table(source, name), f"{name}."
    reader.keys(values, declared_keys(table), at)
    return table(**read_keys(reader, values, table, at))


def _stopping(reader: Reader, source: Mapping[str, Any]) -> Stopping:
    table = reader.table(source, "stopping")
    unit = reader.choice(table, "unit", "epoch", UNITS, "stopping.")
    for other in UNITS:
        if other != unit and f"grace_{other}s" in table:
            raise reader.error(f"stopping.grace_{other}s", f"with unit = {unit!r} write grace_{unit}s")
    reader.keys(table, keys_beside(Stopping, unit=unit), "stopping.")
    return _read_table(reader, source, "stopping", Stopping)


def _resources(reader: Reader, source: Mapping[str, Any]) -> Resources:
    made = _read_table(reader, source, "resources", Resources)
    if made.ranks % made.nodes:
        raise reader.error(
            "resources.nodes", f"{made.ranks} ranks do not spread evenly over {made.nodes} nodes"
        )
    return made


def _known_field(reader: Reader, trainable: Trainable, where: str, name: str) -> None:
    if name == "parent":
        raise reader.error(where, "is written only by a population ([search] algorithm = 'pbt')")
    if name == "pinned_code" and not isinstance(trainable, DeclaredTrainable):
        raise reader.error(where, "is written only by code = 'pin'")
    if name not in trainable.field_names:
        raise reader.error(where, f"unknown field{did_you_mean(name, trainable.field_names)}")


def _trial_value(reader: Reader, trainable: Trainable, where: str, name: str, value: Any) -> None:
    """Check one field's value by itself; combinations of fields are checked trial by trial."""
    _known_field(reader, trainable, where, name)
    try:
        trainable.check_value(name, value)
    except ConfigError as error:
        raise reader.error(where, str(error)) from error


def _apply_setting(source: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"--set {setting}: not KEY=VALUE, as in --set base.epochs=2")
    try:
        value = parse_toml(f"value = {text}").pop("value") if "\n" not in text.strip() else text
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string: --set base.model=mixer
    except ValueError as error:
        raise SpecError(f"--set {key}: {str(error).removeprefix('value: ')}") from error
    *folders, last = key.strip().split(".")
    table: Any = source
    for folder in folders:
        if isinstance(table, list):
            table = table[int(folder)] if folder.isdecimal() and int(folder) < len(table) else None
        else:
            table = table.setdefault(folder, {})
        if not isinstance(table, dict | list):
            raise SpecError(f"--set {setting}: {folder!r} is not a table")
    if isinstance(table, list):
        raise SpecError(f"--set {setting}: {last!r} is not a key of a table")
    table[last] = value
