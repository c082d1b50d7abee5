"""Names of models and data sets: the built-in ones, and those that a user's file registers.

A sweep file lists such files under `imports`; each is run once, before the sweep file is checked.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

BUILT_IN_MODELS = ("mlp", "resnet18", "mixer")
BUILT_IN_DATASETS = ("cifar10", "digits")

_models: dict[str, Callable[..., Any]] = {}
_datasets: dict[str, Callable[..., Any]] = {}
_recalled: set[str] = set()


def register_model(name: str, build: Callable[..., Any]) -> None:
    """Make `model = name` mean `build(config, classes) -> torch.nn.Module`.

    The module takes images [batch, 3, 32, 32] (normalised float) and returns logits [batch, classes].
    A name identifies one behaviour: change the name (`wide-v2`) when the model changes, since it is part of the
    identity of finished trials.

    Raises:
        ValueError: the name is a built-in one.
    """
    _register(_models, BUILT_IN_MODELS, name, build)


def register_dataset(name: str, load: Callable[..., Any]) -> None:
    """Make `dataset = name` mean `load(data_dir) -> core.data.datasets.Images`.

    Raises:
        ValueError: the name is a built-in one.
    """
    _register(_datasets, BUILT_IN_DATASETS, name, load)


def recall_names(model: str, dataset: str) -> None:
    """Declare a stored config's names known, so that it can be read without importing the file that registered them.

    Such names cannot be built or loaded.
    """
    _recalled.update((model, dataset))


def model_names() -> tuple[str, ...]:
    """All names that `model` may have."""
    return (*BUILT_IN_MODELS, *_models, *sorted(_recalled - {*BUILT_IN_MODELS, *_models}))


def dataset_names() -> tuple[str, ...]:
    """All names that `dataset` may have."""
    return (*BUILT_IN_DATASETS, *_datasets, *sorted(_recalled - {*BUILT_IN_DATASETS, *_datasets}))


def registered_model(name: str) -> Callable[..., Any] | None:
    """The builder of a registered model, or None."""
    return _models.get(name)


def registered_dataset(name: str) -> Callable[..., Any] | None:
    """The loader of a registered data set, or None."""
    return _datasets.get(name)


def import_files(files: Iterable[str | Path], project: str | Path) -> list[ModuleType]:
    """Import a user's files once in this process, with the root of their project first on `sys.path`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    root = str(Path(project).resolve())
    modules = []
    for file in files:
        if root not in sys.path:
            sys.path.insert(0, root)
        modules.append(import_file(Path(file)))
    return modules


def import_file(path: Path) -> ModuleType:
    """Run a user's file once in this process, so that what it registers is known; return its module.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = path.resolve()
    module = "mixsweep_user_" + hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    if module in sys.modules:
        return sys.modules[module]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, named under `imports`")
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[module]
        raise
    return loaded


def project_files(project: str | Path) -> dict[str, Path]:
    """The files of a project that this process has imported, by their paths in it, and no environment's."""
    root = Path(project).resolve()
    folders: dict[str, Path] = {}  # the real ones: of thousands of modules, few folders are looked up
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == "mixsweep" or not isinstance(file, str) or not os.path.isabs(file):
            continue
        folder, base = os.path.split(file)
        if folder not in folders:
            folders[folder] = Path(folder).resolve()
        path = folders[folder] / base
        if path.suffix != ".py" or not path.is_relative_to(root):
            continue
        inside = path.relative_to(root)
        if not {"site-packages", ".venv", "venv"} & set(inside.parts) and path.is_file():
            found[str(inside)] = path
    return found


def _register(table: dict[str, Callable[..., Any]], built_in: tuple[str, ...], name: str, value: Any) -> None:
    if name in built_in:
        raise ValueError(f"{name!r} is a built-in name; choose another")
    table[name] = value
