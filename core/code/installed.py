"""What an installed module of a sweep is: its file, its distribution's version, and what it imports of a checkout.

Of an installed distribution the version says what the other modules are. A package that is imported from a checkout
(`pip install -e`) may change without a new version, so that those of its modules that the named one imports count too.
"""

from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

from mixsweep.core.code.project import project_files

_INSTALLED = {"site-packages", "dist-packages"}


def installed_files(module: ModuleType) -> dict[str, Path]:
    """The Python files of an installed module, by their paths below the folder that its package is imported from."""
    file = Path(module.__file__ or "").resolve()
    if file.suffix != ".py":
        return {}
    depth = module.__name__.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    if _INSTALLED & set(file.parts):
        return {str(file.relative_to(root)): file}
    return dict(project_files([file], root).files)


def installed_versions(module: ModuleType) -> str:
    """A line `distribution version` for each one that a module's package comes from, '' for none."""
    names = packages_distributions().get(module.__name__.partition(".")[0], ())
    return "".join(f"{name} {version(name)}\n" for name in sorted(set(names)))
