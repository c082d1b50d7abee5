"""Two hosts share a sweep through a file server that fails as such servers do; the result is an undisturbed one's.

A case is `<network> <seed>`.
"""

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixsweep.core.store.store import SweepStore
from tests.faults.commands import Command, Commands, Done
from tests.faults.file_server import Mount, Settings, mounted
from tests.faults.stores import age, differences, findings, lies
from tests.faults.system_calls import SWEEP, TUNING, Result

# Times of a lease that a test can wait for.
LEASES = {"heartbeat_seconds": 0.5, "stale_seconds": 3.0, "observe_seconds": 3.0}
_ROUNDS = 6
# Ends of attempts that faults of the server may leave behind; none of them ends the trial.
_ENDS = ("killed", "interrupted", "disk")


_WELL = Settings()


@dataclass(frozen=True)
class Network:
    """Two clients of a server, what is done to them, and how far their clocks are ahead."""

    one: Settings = field(default=_WELL)
    two: Settings = field(default=_WELL)
    clocks: tuple[int, int] = (0, 0)
    cut: tuple[str, ...] | None = None  # the calls that are cut off now and then; (): all
    cured: Settings = field(default=_WELL)


_HOUR = 3600
_LINKS = ("link", "rename")
NETWORKS: Mapping[str, Network] = {
    "plain": Network(),
    "long-caches": Network(Settings(cache_seconds=5.0), Settings(cache_seconds=5.0)),
    "slow": Network(Settings(delay_seconds=0.02), Settings(delay_seconds=0.02)),
    "lost-replies": Network(Settings(), Settings(lost=0.02)),
    "lost-links-and-renames": Network(Settings(lost=0.2, only=_LINKS), Settings(lost=0.2, only=_LINKS)),
    "repeated": Network(Settings(repeated=0.2), Settings(repeated=0.2)),
    "stale": Network(Settings(), Settings(stale=0.01)),
    "no-links": Network(*2 * (Settings(links=False),), cured=Settings(links=False)),
    "no-locks-nor-times": Network(
        *2 * (Settings(locks=False, times=False),), cured=Settings(locks=False, times=False)
    ),
    "server-clock-ahead": Network(*2 * (Settings(clock_seconds=_HOUR),), cured=Settings(clock_seconds=_HOUR)),
    "server-clock-behind": Network(
        *2 * (Settings(clock_seconds=-_HOUR),), cured=Settings(clock_seconds=-_HOUR)
    ),
    "clocks-apart": Network(clocks=(_HOUR, -_HOUR)),
    "partition": Network(cut=()),
    "partition-of-links-and-renames": Network(cut=_LINKS),
}


class Networks:
    """Cases of two hosts on one file server; what the sweep must become is trained once.

    Args:
        commands: starts the commands.
        folder: for the server's folder and the mounts.
        trials: how many the sweep has.
    """

    def __init__(self, commands: Commands, folder: Path, trials: int = 8):
        self._commands = commands
        self._folder = folder / "network"
        self._folder.mkdir(parents=True)
        self._file = self._folder / "small.toml"
        text = SWEEP.format(epochs=6, activations='["relu", "tanh"]', keep="all")
        self._file.write_text(text.replace("[base]", f"seeds = {trials // 2}\n[base]", 1), encoding="utf-8")
        self._undisturbed = SweepStore(self._folder / "undisturbed" / "small")
        done = commands.run(*self._words(self._undisturbed.path.parent), tuning=TUNING)
        if done.code:
            raise RuntimeError(done.output)

    def play(self, case: str) -> Result:
        """Let two hosts train through the server, with its faults, then without; then compare."""
        name, seed = case.split()
        network, rng = NETWORKS[name], random.Random(case)
        served = self._folder / "served"
        shutil.rmtree(served, ignore_errors=True)
        served.mkdir()
        store = SweepStore(served / "runs" / "small")
        problems: list[str] = []
        mounts = [self._folder / "host-one", self._folder / "host-two"]
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(mounted(served, path, _seeded(settings, int(seed) + number)))
                for number, (path, settings) in enumerate(zip(mounts, (network.one, network.two)))
            ]
            with _cuts(clients[1], network.cut, rng):
                for _ in range(_ROUNDS):
                    ends = [command.wait(150) for command in self._start(clients, network)]
                    for end in ends:
                        assert end is not None
                        problems += _wrong(end)
                    if all(end is not None and end.code == 0 for end in ends):
                        break
                problems += self._look(clients[1])
            for client, settings in zip(clients, (network.cured, network.cured)):
                client.change(**vars(_seeded(settings, 0)))
            age(served)
            time.sleep(max(network.one.cache_seconds, network.two.cache_seconds) + 0.1)
            for number in (0, 1):
                last = self._commands.run(
                    *self._words(mounts[number] / "runs"), **self._options(network, number)
                )
                problems += _wrong(last, codes=(0,))
        problems += findings(store) + lies(store, self._undisturbed)
        problems += differences(store, self._undisturbed, _ENDS)
        if name == "plain":
            hosts = {
                attempt.host
                for trial in store.trials()
                if (info := trial.info())
                for attempt in info.attempts
            }
            problems += [f"only {hosts} trained"] if len(hosts) < 2 else []
        return Result(case, name, problems)

    def _start(self, clients: list[Mount], network: Network) -> list[Command]:
        return [
            self._commands.start(*self._words(client.path / "runs"), **self._options(network, number))
            for number, client in enumerate(clients)
        ]

    def _options(self, network: Network, number: int) -> dict[str, object]:
        return {
            "tuning": {**TUNING, **LEASES},
            "host": f"host-{number + 1}",
            "clock_seconds": network.clocks[number],
        }

    def _look(self, client: Mount) -> list[str]:
        """What a reader on a client is shown while there are faults."""
        problems = []
        for words in ("status small", "status small --json"):
            done = self._commands.run(*words.split(), "--store", str(client.path / "runs"))
            problems += _wrong(done)
        return problems

    def _words(self, store: Path) -> tuple[str, ...]:
        return ("run", str(self._file), "--place", "debug", "--store", str(store))


def _seeded(settings: Settings, seed: int) -> Settings:
    return Settings(**{**vars(settings), "seed": seed})


@contextlib.contextmanager
def _cuts(client: Mount, calls: tuple[str, ...] | None, rng: random.Random) -> Iterator[None]:
    """Cut a client off now and then, for some seconds."""
    if calls is None:
        yield
        return
    over = threading.Event()

    def cut() -> None:
        while not over.wait(rng.uniform(0.2, 1.5)):
            client.change(partitioned=True, only=calls, partition_seconds=rng.uniform(0.5, 4.0))
            over.wait(rng.uniform(0.5, 5.0))
            client.change(partitioned=False)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wrong(done: Done, codes: tuple[int, ...] = (0, 1, 2)) -> list[str]:
    problems = []
    if done.code not in codes:
        problems.append(f"exit code {done.code}: {done.output.strip()[-400:]}")
    if "Traceback" in done.output:
        problems.append(f"a traceback: {done.output.strip()[-1500:]}")
    return problems
