"""The tables `[command]` and `[fields]` of a sweep file: a trial that is a command, and fields declared in the file."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixsweep.core.config import Field
from mixsweep.core.errors import ConfigError
from mixsweep.core.secret_text import looks_secret
from mixsweep.core.store.code_copy import Code, collect_code
from mixsweep.core.toml.keys import declared_keys, read_keys, toml_key, toml_key_by_hand
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables.command.kept_files import check_pattern
from mixsweep.core.trainables.command.metrics import JSON_LINES, check_metrics, named_metrics
from mixsweep.core.trainables.command.template import CHECKPOINT, TRIAL_DIR, check_template, fill
from mixsweep.core.trainables.definition import Definition, make_definition

_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
_FIELD_KEYS = (
    "default",
    "type",
    "doc",
    "choices",
    "low",
    "high",
    "above",
    "when",
    "budget",
    "mutable",
    "added",
)


@dataclass(frozen=True, kw_only=True)
class CommandTable:
    """The keys of `[command]`."""

    run: str = toml_key("", "the command, with fields in braces: python train.py --lr {lr}", required=True)
    metrics: Any = toml_key_by_hand(
        JSON_LINES, "where records come from: json-lines, csv:FILE, or { pattern = 'loss (?P<loss>\\S+)' }"
    )
    resume: str = toml_key("", "words that are added where there is a checkpoint: --resume {checkpoint}")
    code: tuple[str, ...] = toml_key((), "files to copy and run, as patterns; left out: *.py beside the file")
    inputs: tuple[str, ...] = toml_key((), "files and folders that are linked, not copied")
    env: Mapping[str, str] = toml_key({}, "environment variables of the command")
    time_limit: float = toml_key(0.0, "seconds of an attempt; left out: no limit", low=0)
    keep: tuple[str, ...] = toml_key((), "files of {trial_dir} to keep with the trial: samples/*")


@dataclass(frozen=True, kw_only=True)
class CommandSpec:
    """A checked `[command]`: its table, its code if it has any, and its inputs by their paths in a copy of it."""

    table: CommandTable
    code: Code | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


def read_command(
    reader: Reader, source: Mapping[str, Any], root: Path, objective: tuple[str, str]
) -> tuple[Definition, CommandSpec]:
    """The definition and the command of a sweep file.

    Args:
        root: the folder that patterns of code and inputs are relative to.
        objective: the sweep's metric and mode.
    """
    values = reader.table(source, "command")
    reader.keys(values, declared_keys(CommandTable), "command.")
    metrics = values.get("metrics", JSON_LINES)
    table = CommandTable(**read_keys(reader, values, CommandTable, "command."), metrics=metrics)
    if not table.run.strip():
        raise reader.error("command.run", "missing: the command, like 'python train.py --lr {lr}'")
    for variable, value in table.env.items():
        if looks_secret(f"{variable}={value}"):
            raise reader.error(
                f"command.env.{variable}",
                "looks like a secret, which the store keeps; set it in the shell or the place",
            )
    for pattern in table.keep:
        try:
            check_pattern(pattern)
        except ConfigError as error:
            raise reader.error("command.keep", str(error)) from error
    fields = read_fields(reader, source)
    names = [spec.name for spec in fields]
    metric, mode = objective
    try:
        definition = make_definition(
            source="command",
            name=table.run,
            fields=fields,
            metrics={metric: mode, **dict.fromkeys((n for n in named_metrics(metrics) if n != metric), "")},
        )
    except ConfigError as error:
        raise reader.error("fields", str(error)) from error
    for key, text, more in (
        ("run", table.run, (TRIAL_DIR,)),
        ("resume", table.resume, (TRIAL_DIR, CHECKPOINT)),
    ):
        try:
            check_template(text, names, more)
        except ConfigError as error:
            raise reader.error(f"command.{key}", str(error)) from error
    try:
        check_metrics(metrics)
    except ConfigError as error:
        raise reader.error("command.metrics", str(error).removeprefix("metrics: ")) from error
    return definition, _files_of(reader, table, definition, root)


def read_fields(reader: Reader, source: Mapping[str, Any]) -> list[Field]:
    """The fields that a sweep file's `[fields]` declares."""
    return [_field(reader, name, given) for name, given in reader.table(source, "fields").items()]


def _files_of(reader: Reader, table: CommandTable, definition: Definition, root: Path) -> CommandSpec:
    try:
        code: Code | None = collect_code(root, table.code or ("*.py",))
    except ConfigError as error:
        if table.code or "no file" not in str(error):
            raise reader.error("command.code", str(error).removeprefix("code: ")) from error
        code = None
    program = fill(table.run, {spec.name: spec.default for spec in definition.fields} | {TRIAL_DIR: ""})[0]
    if (code is None or program not in code.files) and shutil.which(program) is None:
        raise reader.error("command.run", f"{program!r} is neither a program here nor among its code")
    inputs = {}
    for name in table.inputs:
        path = (root / name).resolve()
        if not path.exists():
            raise reader.error("command.inputs", f"{name!r}: no such file or folder below {root}")
        inputs[Path(name).name if Path(name).is_absolute() else name] = str(path)
    return CommandSpec(table=table, code=code, inputs=inputs)


def _field(reader: Reader, name: str, given: Any) -> Field:
    """A field by its default, or by a table."""
    where = f"fields.{name}"
    table = dict(given) if isinstance(given, Mapping) else {"default": given}
    reader.keys(table, _FIELD_KEYS, f"{where}.")
    if "default" not in table:
        raise reader.error(where, "has no default")
    default = table.pop("default")
    is_list = isinstance(default, list)
    sample = default[0] if is_list and default else default
    wanted = table.pop("type", type(sample).__name__)
    if wanted not in _TYPES or (is_list and not default):
        raise reader.error(
            where, f"{default!r} is none of a number, a text, true or false, or a list of them"
        )
    conditions = {
        other: tuple(allowed) if isinstance(allowed, list) else (allowed,)
        for other, allowed in reader.table(table, "when", f"{where}.").items()
    }
    table.pop("when", None)
    try:
        made = Field(
            name=name,
            type=_TYPES[wanted],
            default=tuple(default) if is_list else default,
            is_list=is_list,
            applies=conditions,
            **{"doc": "", **table, "choices": tuple(table.get("choices", ()))},
        )
        made.checked(made.default)
    except (ConfigError, TypeError) as error:
        raise reader.error(where, str(error)) from error
    return made
