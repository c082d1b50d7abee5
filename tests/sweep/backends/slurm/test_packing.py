"""How many short trials a task runs in turn: by the forecast, the place's time limit, and the slots of the cluster."""

from pathlib import Path

import pytest

from mixsweep.cluster.places import PlaceError, SlurmPlace, find_place
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import JobRequest, SlurmError, count_slots
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.slurm import packing
from mixsweep.sweep.backends.slurm.packing import Packing, choose_packing
from mixsweep.sweep.planning.forecast import Forecast, RemainingWork

REQUEST = JobRequest(name="s", cpus=2)
CAMPUS = SlurmPlace()


def pack(
    monkeypatch: pytest.MonkeyPatch,
    *,
    trials: int,
    seconds: float | None,
    slots: int | None = None,
    place: SlurmPlace = CAMPUS,
    slowest: int = 1,
) -> Packing:
    """The packing of trials that take so many seconds each, on a cluster with so many slots.

    Args:
        slowest: how many times as long the last one takes.
    """

    def count(place: SlurmPlace, request: JobRequest) -> int:
        if slots is None:
            raise SlurmError("scontrol: not found")
        return slots

    def take(work: list[RemainingWork], pace: object) -> Forecast:
        total = None if seconds is None else seconds * sum(one.epochs for one in work)
        return Forecast(total, "no record of it yet")

    monkeypatch.setattr(packing, "forecast", take)
    monkeypatch.setattr(slurm, "count_slots", count)
    work = [RemainingWork(ImageConfig(), 1)] * (trials - 1) + [RemainingWork(ImageConfig(), slowest)]
    return choose_packing(place, REQUEST, work, Path("nowhere"))


@pytest.mark.parametrize(
    ("trials", "seconds", "slots", "minutes", "count"),
    [
        (200, 1.0, 4, 60, 50),  # every slot is busy
        (200, 1.0, 100, 60, 2),
        (200, 1.0, 1000, 60, 1),
        (10_000, 1.0, 4, 60, 600),  # ten minutes
        (10_000, 1.0, 4, 10, 300),  # half of the limit
        (100, 400.0, 4, 60, 1),
        (100, 4000.0, 4, 60, 1),
        (3, 0.0, 1, 60, 3),
    ],
)
def test_a_task_takes_some_minutes_and_leaves_one_for_each_slot(
    monkeypatch: pytest.MonkeyPatch, trials: int, seconds: float, slots: int, minutes: int, count: int
) -> None:
    place = SlurmPlace(time=minutes, parallelism=10_000)
    made = pack(monkeypatch, trials=trials, seconds=seconds, slots=slots, place=place)
    assert made.trials_per_task == count
    assert f"{count} trial" in made.reason
    assert f"{slots} tasks can run at once" in made.reason


def test_the_slowest_trials_of_a_task_must_fit_into_half_of_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = pack(monkeypatch, trials=1000, seconds=1.0, slots=4, place=SlurmPlace(time=10), slowest=60)
    assert made.trials_per_task == 5


def test_without_a_scheduler_the_places_own_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pack(monkeypatch, trials=512, seconds=1.0).trials_per_task == 2
    assert pack(monkeypatch, trials=512, seconds=1.0, place=SlurmPlace(parallelism=8)).trials_per_task == 64


def test_trials_of_unknown_length_have_a_task_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pack(monkeypatch, trials=200, seconds=None, slots=4)
    assert made == Packing(1, "one trial a task: how long a trial takes is not known (no record of it yet)")


def test_a_number_in_the_place_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    place = SlurmPlace(trials_per_task=7)
    assert pack(monkeypatch, trials=200, seconds=1.0, slots=4, place=place) == Packing(7)


def test_slots_are_counted_from_the_partitions_cpus_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"a": {"TotalCPUs": "64", "TRES": "cpu=64,mem=1T,gres/gpu=8"}, "b": {"TotalCPUs": "6"}}
    monkeypatch.setattr(slurm, "partition_settings", facts.__getitem__)
    place = SlurmPlace(partition="a,b")
    assert count_slots(place, JobRequest(name="s", cpus=2)) == 32 + 3
    assert count_slots(place, JobRequest(name="s", cpus=2, gpus=1)) == 8
    assert count_slots(place, JobRequest(name="s", cpus=2, gpus=1, processes=2)) == 4
    assert count_slots(place, JobRequest(name="s", cpus=128)) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [("'atuo'", "'atuo' is not known; did you mean 'auto'?"), ("0", "0"), ("1.5", "1.5"), ("true", "True")],
)
def test_a_wrong_value_is_refused(
    value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("places.toml").write_text(f"[c]\nkind = 'slurm'\ntrials_per_task = {value}\n")
    with pytest.raises(PlaceError, match=r"^places.toml: c\.trials_per_task: ") as refused:
        find_place("c")
    assert words in str(refused.value)
