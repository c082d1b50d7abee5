"""Two hosts train one sweep through a file server that fails; the result is an undisturbed one's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import Commands, own_environment
from tests.faults.file_server import Settings, mounted
from tests.faults.network import Networks
from tests.faults.tables import COMMAND

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]

SEED = 3
IN_CI = ("plain", "lost-links-and-renames", "repeated", "stale", "clocks-apart", "partition")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    folder = tmp_path_factory.mktemp("network")
    with mounted(folder, folder / "probe", Settings()):
        pass  # skips where there is no FUSE
    with own_environment(folder), Commands(folder / "commands") as commands:
        yield Networks(commands, folder)


@pytest.mark.parametrize("network", IN_CI)
def test_two_hosts_share_a_sweep_through_a_file_server_that_fails(networks: Networks, network: str) -> None:
    result = networks.play(f"{network} {SEED}")
    assert not result.problems, "\n".join([f"{COMMAND} network '{network} {SEED}'", *result.problems])


def test_two_clients_see_each_others_changes_late_and_no_later_than_their_caches_say(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    slow = Settings(cache_seconds=2.0)
    with (
        mounted(served, tmp_path / "one", slow) as one,
        mounted(served, tmp_path / "two", slow) as two,
    ):
        (one.path / "file").write_text("first")
        assert (two.path / "file").stat().st_size == len("first")
        (one.path / "other").write_text("second one")
        (one.path / "other").rename(one.path / "file")
        assert (two.path / "file").stat().st_size == len("first")  # an attribute that it remembers
        two.change(partitioned=True, partition_seconds=0.1)
        with pytest.raises(TimeoutError):
            list((two.path / "nothing").parent.iterdir())
        two.change(partitioned=False)
        (two.path / "file").stat()
        assert sorted(path.name for path in two.path.iterdir()) == ["file"]
