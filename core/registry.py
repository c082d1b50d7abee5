"""Names of the parts of an image trial: the built-in ones, and those that a user's file registers.

A sweep file lists such files under `imports`; each is run once, before the sweep file is checked.
"""

import filecmp
import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mixsweep.core.errors import UserError

Shape = tuple[int, int, int]  # of an image: channels, height, width

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "model": ("mlp", "resnet18", "mixer"),
    "dataset": ("cifar10", "digits"),
    "optimizer": ("sgd", "momentum", "adam", "adamw"),
    "schedule": ("constant", "cosine"),
    "activation": ("relu", "tanh", "sigmoid", "gelu", "silu", "leaky_relu", "elu", "identity"),
    "augment": ("none", "flip_crop", "flip_resized_crop"),
}  # by the field that names a part


@dataclass(frozen=True)
class DataForm:
    """The form of a data set's images, and how they are augmented where a trial does not say it.

    Args:
        classes: None: known once the images are loaded.
    """

    shape: Shape = (3, 32, 32)
    classes: int | None = None
    augment: str = "flip_resized_crop"


_BUILT_IN_FORM = DataForm(classes=10)


class _Entry(NamedTuple):
    """What is registered, the form of a data set, and the file whose import registers it."""

    value: Callable[..., Any]
    form: DataForm | None
    file: str


_registered: dict[str, dict[str, Callable[..., Any]]] = {part: {} for part in BUILT_IN}
_recalled: dict[str, set[str]] = {part: set() for part in BUILT_IN}
_forms: dict[str, DataForm] = {}  # by data set
_loaded_with: dict[str, frozenset[str]] = {}  # by the module of a user's file
_Entries = dict[tuple[str, str], _Entry]  # by part and name
_entries: dict[str, _Entries] = {}  # by that module
_being_imported: list[_Entries] = []  # of the files that run now


def register_model(name: str, build: Callable[..., Any]) -> None:
    """Make `model = name` mean `build(shape, classes, *, …) -> torch.nn.Module`.

    The module takes images [batch, channels, height, width] (normalised float; `shape` is the last three) and returns
    logits [batch, classes]. Keyword-only parameters with a default become fields of the trial; one without a default
    that is named like a built-in field gets its value, and `activation` a function that makes the module.

    A builder whose first parameter is not called `shape` is called with the trial's config in its place.

    A name identifies one behaviour: change the name (`wide-v2`) when the model changes, since it is part of the
    identity of finished trials.

    Raises:
        ValueError: the name is a built-in one.
    """
    _register("model", name, build)


def register_dataset(
    name: str,
    load: Callable[..., Any],
    *,
    shape: Shape = (3, 32, 32),
    classes: int | None = None,
    augment: str = "flip_resized_crop",
) -> None:
    """Make `dataset = name` mean `load(data_dir, *, …) -> core.data.datasets.Images`.

    Keyword-only parameters with a default become fields of the trial.

    Args:
        shape: channels, height and width of its images.
        classes: how many; left out: as the loaded images say, and a plan does not count a model's parameters.
        augment: the augmentation of trials that name none.

    Raises:
        ValueError: the name is a built-in one, or the shape is not three positive integers.
    """
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"shape = {shape!r} is not (channels, height, width)")
    _register("dataset", name, load, DataForm((shape[0], shape[1], shape[2]), classes, augment))


def register_optimizer(name: str, build: Callable[..., Any]) -> None:
    """Make `optimizer = name` mean `build(parameters, *, lr, weight_decay, …) -> torch.optim.Optimizer`.

    A class of optimizers is called with the parameters, `lr` and `weight_decay`. Other keyword-only parameters of a
    function become fields of the trial. The learning rate of each step is set from outside.

    Raises:
        ValueError: the name is a built-in one.
    """
    _register("optimizer", name, build)


def register_schedule(name: str, factor: Callable[..., float]) -> None:
    """Make `schedule = name` mean a learning rate of `lr · factor(step, steps, *, …)`.

    `step` counts from 0 after the warm-up, and `steps` is the number of all steps after it, so a trial's identity has
    its budget of epochs. Keyword-only parameters with a default become fields of the trial.

    Raises:
        ValueError: the name is a built-in one.
    """
    _register("schedule", name, factor)


def register_activation(name: str, make: Callable[..., Any]) -> None:
    """Make `activation = name` mean `make(*, …) -> torch.nn.Module`, a class of modules or a function.

    Keyword-only parameters of a function, with a default, become fields of the trial.

    Raises:
        ValueError: the name is a built-in one.
    """
    _register("activation", name, make)


def register_augmentation(name: str, augment: Callable[..., Any]) -> None:
    """Make `augment = name` mean `augment(images, generator, *, …) -> images`.

    It gets a batch of train images, uint8 [batch, channels, height, width], on their device, and returns images of the
    same shape, uint8 or float, still from 0 to 255. All randomness must be drawn from `generator`, on the CPU.
    Keyword-only parameters with a default become fields of the trial.

    Raises:
        ValueError: the name is a built-in one.
    """
    _register("augment", name, augment)


def recall_names(values: Mapping[str, Any]) -> None:
    """Declare a stored config's names known, so that it can be read without importing the file that registered them.

    Such names cannot be built or loaded.
    """
    for part, recalled in _recalled.items():
        if isinstance(values.get(part), str):
            recalled.add(values[part])


def names(part: str) -> tuple[str, ...]:
    """All names that a part may have.

    Args:
        part: the field that names it, such as `model`.
    """
    known = (*BUILT_IN[part], *_registered[part])
    return (*known, *sorted(_recalled[part] - set(known)))


def is_known(part: str, name: str) -> bool:
    """Whether `names` has this name."""
    return name in BUILT_IN[part] or name in _registered[part] or name in _recalled[part]


def registered(part: str, name: str) -> Callable[..., Any] | None:
    """What was registered under a name, or None."""
    return _registered[part].get(name)


def registrations() -> list[tuple[str, str, Callable[..., Any]]]:
    """All that is registered in this process: the part, the name, and what builds it."""
    return [(part, name, build) for part, table in _registered.items() for name, build in table.items()]


def form_of(dataset: str) -> DataForm | None:
    """The form of a data set's images; None if its file is not imported here."""
    if dataset in BUILT_IN["dataset"]:
        return _BUILT_IN_FORM
    return _forms.get(dataset)


def import_files(
    files: Iterable[str | Path], project: str | Path, folders: Sequence[str] = (".",)
) -> list[ModuleType]:
    """Import a user's files once in this process, with folders of their project first on `sys.path`.

    What they register is in force afterwards, also where other files of this process have taken their names since.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: two of them register different things under one name.
    """
    root = Path(project).resolve()
    modules = []
    for file in files:
        for folder in reversed(folders):
            path = str(root / folder)
            if path not in sys.path:
                sys.path.insert(0, path)
        modules.append(import_file(Path(file)))
    _restore_entries(modules)
    return modules


def _restore_entries(modules: Sequence[ModuleType]) -> None:
    """Put what these files have registered in force again."""
    found: _Entries = {}
    for module in modules:
        for (part, name), entry in _entries.get(module.__name__, {}).items():
            other = found.setdefault((part, name), entry)
            if other.value is not entry.value and not _is_same_file(other.file, entry.file):
                raise UserError(
                    f"{other.file} and {entry.file} both register {part} {name!r}; rename one of them"
                )
    for (part, name), entry in found.items():
        _put(part, name, entry.value, entry.form)


def _is_same_file(first: str, second: str) -> bool:
    """Whether two files are one, which has run by itself and as a module that another file imports, or its copy."""
    if first == second:
        return True
    return Path(first).name == Path(second).name and filecmp.cmp(first, second, shallow=False)


def import_file(path: Path) -> ModuleType:
    """Run a user's file once in this process, so that what it registers is known; return its module.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = path.resolve()
    module = _module_of(path)
    if module in sys.modules:
        return sys.modules[module]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    known, entries = set(sys.modules), _Entries()
    sys.modules[module] = loaded
    _being_imported.append(entries)
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[module]
        raise
    finally:
        _being_imported.pop()
    _loaded_with[module] = frozenset(sys.modules) - known
    _entries[module] = entries
    return loaded


def loaded_with(path: Path) -> frozenset[str]:
    """The modules that importing a user's file has loaded in this process, itself among them."""
    return _loaded_with.get(_module_of(path.resolve()), frozenset())


def _module_of(path: Path) -> str:
    return "mixsweep_user_" + hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _register(part: str, name: str, value: Callable[..., Any], form: DataForm | None = None) -> None:
    if name in BUILT_IN[part]:
        raise ValueError(f"{name!r} is a built-in name; choose another")
    _put(part, name, value, form)
    for entries in _being_imported:
        entries[part, name] = _Entry(value, form, _file_that_runs())


def _file_that_runs() -> str:
    """The innermost file whose top level is being run."""
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and not code.co_filename.startswith("<"):
            return os.path.realpath(code.co_filename)
        frame = frame.f_back
    return ""


def _put(part: str, name: str, value: Callable[..., Any], form: DataForm | None) -> None:
    _registered[part][name] = value
    if form is not None:
        _forms[name] = form
