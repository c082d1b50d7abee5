"""The wheel, built once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.installed import Installed, build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Installed]:
    """Makes an environment of the wheel with some of its extras."""

    def make(*extras: str) -> Installed:
        return Installed(tmp_path_factory.mktemp("installed"), wheel, extras)

    return make


@pytest.fixture(scope="session")
def light(install: Callable[..., Installed]) -> Installed:
    """What `pip install mixsweep` gives."""
    return install()
