"""core.execution.rank_channel: ranks train a trial as one process alone would, and none waits for ever.

Deviations of 2 ranks from 1 come from the order of floating-point sums; measured, see TOLERANCES.
"""

import os
import pickle
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixsweep.core import registry
from mixsweep.core.data.datasets import Images, load_images
from mixsweep.core.errors import ConfigError
from mixsweep.core.execution.rank_channel import RankChannel, _address, _listen
from mixsweep.core.execution.rank_token import RANK_TOKEN, seal, unseal
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.failures import Interruption, RankError, kind_of
from mixsweep.core.records import Record
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.core.training import device as devices
from mixsweep.core.training.process_group import ALONE, Ranks, ranks_from_environment
from mixsweep.core.training.sync_batch_norm import SynchronisedBatchNorm, synchronise
from mixsweep.core.training.trainer import Trial

CPU = torch.device("cpu")
TIMEOUT_SECONDS = 30.0
Tiny = Callable[..., ImageConfig]
Start = Callable[..., list[BaseProcess]]
Together = Callable[..., list[Any]]

MIXER = {"model": "mixer", "embed_dim": 16, "blocks": 2, "patch_size": 8, "train_limit": 128}
RESNET = {"model": "resnet18", "batch_size": 8, "train_limit": 16, "valid_limit": 12, "lr": 1e-4}

# Relative deviation of losses in two epochs; measured 8e-8, 7e-8 and 2.4e-4.
TOLERANCES = [({}, 1e-6), (MIXER, 1e-6), (RESNET, 2e-3)]

# Relative deviation of a step's gradient; measured 1e-7, 5e-7 and 2.3e-5. ReLU has a kink, where rounding makes
# a difference: some of a ResNet's four million units lie on it, and one of them moves the gradient by 0.5 %.
SMOOTH_RESNET = RESNET | {"activation": "gelu"}
GRADIENT_TOLERANCES = [({}, 1e-5), (MIXER, 1e-5), (SMOOTH_RESNET, 1e-4)]


# --- What runs in a rank's process ---------------------------------------------------------------------


def as_rank(ranks: Ranks, port: int, result: Path, body: Callable[..., Any], *arguments: Any) -> None:
    """Run a body as one of some ranks, and leave what it returns in a file."""
    warnings.simplefilter("error")
    devices.prepare_process(1)
    os.environ |= {
        "RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.world), "LOCAL_RANK": str(ranks.local_rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), RANK_TOKEN: "of this test",
    }  # fmt: skip
    result.write_bytes(pickle.dumps(body(*arguments)))


@contextmanager
def joined() -> Iterator[Ranks]:
    with RankChannel(ranks_from_environment(), TIMEOUT_SECONDS) as channel, channel.attempt(CPU):
        yield channel.ranks


def observe(config: ImageConfig, ranks: Ranks = ALONE, test: bool = False, **values: Any) -> dict[str, Any]:
    """All that a trial shows of itself, and its test figures if asked for (for a ResNet that takes seconds)."""
    trial = Trial(config, load_images("digits", None), CPU, ranks=ranks, **values)
    seen: dict[bool, Counter[bytes]] = {True: Counter(), False: Counter()}
    sizes, seeds = [], []

    def look(model: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[model.training].update(image.numpy().tobytes() for image in inputs[0])
        if model.training:
            sizes.append(len(inputs[0]))
            seeds.append(torch.initial_seed())

    trial.model.register_forward_pre_hook(look)
    epochs = trial.train()
    rows = [next(epochs)]
    gradients = {name: p.grad.clone() for name, p in trial.model.named_parameters() if p.grad is not None}
    once = Counter(seen[True])
    rows += epochs
    return {
        "rows": trajectory(rows), "test": trial.test() if test else None, "state": trial.state(),
        "gradients": gradients, "seeds": seeds, "sizes": sizes,
        "trained_on_in_epoch_1": once, "evaluated": seen[False],
    }  # fmt: skip


def observe_together(config: ImageConfig, values: dict[str, Any]) -> dict[str, Any]:
    with joined() as ranks:
        return observe(config, ranks, **values)


def work_together(configs: list[ImageConfig], stores: list[Path], values: dict[str, Any]) -> list[TrialInfo]:
    """`work` as a place calls it; `stores` are each rank's, since only rank 0 may touch it."""
    run_config = RunConfig(
        store=stores[int(os.environ["RANK"])], ranks=int(os.environ["WORLD_SIZE"]),
        retention=Retention("all"), rank_timeout_seconds=TIMEOUT_SECONDS, checkpoint_share=0.5, stopping=True,
    )  # fmt: skip
    registry._registered["model"].update(FAILING_MODELS)
    return list(work(configs, run_config, **values))


class NarrowOnRank1(nn.Sequential):
    """A model whose second rank has room for 16 images, and that fails on an odd seed."""

    def __init__(self, config: ImageConfig, classes: int):
        super().__init__(nn.Flatten(), nn.Linear(3072, classes))
        self.fails = config.seed % 2 == 1

    def forward(self, x: Tensor) -> Tensor:
        if self.training and os.environ.get("RANK") == "1":
            if self.fails:
                raise KeyError("layer")
            if len(x) > 16:
                raise MemoryError
        return super().forward(x)


class LeavingOnRank1(NarrowOnRank1):
    """A model whose second rank is told to leave by its scheduler."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and os.environ.get("RANK") == "1":
            raise Interruption("preempted")
        return super().forward(x)


FAILING_MODELS = {"narrow on rank 1": NarrowOnRank1, "leaving on rank 1": LeavingOnRank1}


def normalise_together(x: Tensor, sizes: list[int]) -> tuple[Any, ...]:
    with joined() as ranks:
        model = synchronise(nn.Sequential(nn.BatchNorm2d(x.shape[1])), CPU)
        return normalised(model, x.split(sizes)[ranks.rank])


def normalised(model: nn.Module, x: Tensor) -> tuple[Any, ...]:
    x = x.clone().requires_grad_()
    y = model(x)
    (y.sin() * torch.arange(y[0].numel()).view(y[0].shape)).sum().backward()
    return y.detach(), x.grad, {name: p.grad for name, p in model.named_parameters()}, model.state_dict()


def stop_at_2(record: Record) -> bool:
    return record.epoch == 2


@pytest.fixture
def _failing_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, build in FAILING_MODELS.items():
        monkeypatch.setitem(registry._registered["model"], name, build)


# --- Starting them -------------------------------------------------------------------------------------


@pytest.fixture
def start(processes: ForkServerContext, tmp_path: Path) -> Iterator[Start]:
    """Starts so many ranks of a body; what rank r returns will lie in `result-r`."""
    started: list[BaseProcess] = []

    def begin(world: int, body: Callable[..., Any], *arguments: Any) -> list[BaseProcess]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        members = []
        for rank in range(world):
            result = tmp_path / f"result-{rank}"
            result.unlink(missing_ok=True)
            ranks = Ranks(rank, world, rank)
            members.append(processes.Process(target=as_rank, args=(ranks, port, result, body, *arguments)))
            members[-1].start()
            started.append(members[-1])
        return members

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def together(start: Start, tmp_path: Path) -> Together:
    """Runs a body in so many ranks, and hands on what each returned."""

    def run(world: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
        members = start(world, body, *arguments)
        for member in members:
            member.join(120)
        assert [member.exitcode for member in members] == [0] * world
        return [pickle.loads((tmp_path / f"result-{rank}").read_bytes()) for rank in range(world)]

    return run


def trajectory(rows: list[Record]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in find_trainable().trajectory_columns} for row in rows]


def table(store: Path, config: ImageConfig) -> list[dict[str, Any]]:
    """What must be equal bit for bit."""
    return (
        SweepStore(store)
        .trial(config.trial_id)
        .records()
        .select(find_trainable().trajectory_columns)
        .to_pylist()
    )


def info_of(store: Path, config: ImageConfig) -> TrialInfo:
    info = SweepStore(store).trial(config.trial_id).info()
    assert info is not None
    return info


def ends_of(info: TrialInfo) -> list[str]:
    return [attempt.end for attempt in info.attempts]


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative."""
    return ((found - expected).norm() / expected.norm()).item()


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def largest_deviation(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """Of losses, relative."""
    pairs = [
        (a[name], b[name]) for a, b in zip(one, other, strict=True) for name in ("train_loss", "valid_loss")
    ]
    return max(abs(a - b) / abs(a) for a, b in pairs)


# --- Training alike ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "tolerance"), TOLERANCES)
def test_two_ranks_train_as_one(
    tiny: Tiny, digits: Images, together: Together, values: dict[str, Any], tolerance: float
) -> None:
    config = tiny(epochs=2, **values)
    alone = observe(config)
    leader, follower = together(2, observe_together, config, {})
    assert leader["rows"] == follower["rows"]
    assert largest_deviation(alone["rows"], leader["rows"]) < tolerance
    for one, other in zip(alone["rows"], leader["rows"], strict=True):
        for name in ("train_accuracy", "valid_accuracy"):
            assert one[name] == pytest.approx(other[name], abs=1 / config.batch_size)
    # One state on both, which one alone can go on from.
    for name, tensor in leader["state"]["model"].items():
        assert torch.equal(tensor, follower["state"]["model"][name])
    assert list(leader["state"]["model"]) == list(alone["state"]["model"])
    further = Trial(config.with_values(epochs=3), digits, CPU)
    further.restore(leader["state"])
    assert [row.epoch for row in further.train()] == [3]


@pytest.mark.parametrize(("values", "tolerance"), GRADIENT_TOLERANCES)
def test_the_gradients_of_a_step_are_those_of_one_rank(
    tiny: Tiny, together: Together, values: dict[str, Any], tolerance: float
) -> None:
    config = tiny(epochs=1, **values)
    config = config.with_values(train_limit=config.batch_size)
    expected, found = (
        o["gradients"] for o in (observe(config), together(2, observe_together, config, {})[0])
    )
    assert found.keys() == expected.keys()
    assert distance(flat(found), flat(expected)) < tolerance


def test_three_ranks_share_batches_that_they_do_not_divide(tiny: Tiny, together: Together) -> None:
    config = tiny(epochs=2, accumulate=2, label_smoothing=0.1)
    alone, ranks = observe(config), together(3, observe_together, config, {})
    assert [rank["sizes"][:2] for rank in ranks] == [[11, 11], [11, 11], [10, 10]]
    assert largest_deviation(alone["rows"], ranks[0]["rows"]) < 1e-6


def test_each_image_is_trained_on_and_evaluated_once_by_one_of_the_ranks(
    tiny: Tiny, together: Together
) -> None:
    config = tiny(epochs=1, augment="flip_crop", train_limit=250)
    alone, ranks = observe(config, test=True), together(2, observe_together, config, {"test": True})
    assert ranks[0]["test"] == ranks[1]["test"] == pytest.approx(alone["test"], rel=1e-6)
    for part in ("trained_on_in_epoch_1", "evaluated"):
        assert ranks[0][part] + ranks[1][part] == alone[part]
    assert sum(alone["trained_on_in_epoch_1"].values()) == 192
    assert sum(alone["evaluated"].values()) == 100 + 360


def test_dropout_differs_between_ranks_and_is_on_rank_0_as_alone(tiny: Tiny, together: Together) -> None:
    config = tiny(epochs=1, dropout=0.5)
    alone, (leader, follower) = observe(config), together(2, observe_together, config, {})
    assert leader["seeds"] == alone["seeds"]
    assert set(leader["seeds"]).isdisjoint(follower["seeds"])


def test_micro_batches_hold_the_same_images_on_any_number_of_ranks(tiny: Tiny, together: Together) -> None:
    config = tiny(
        epochs=1, accumulate=2, **SMOOTH_RESNET | {"train_limit": 8}
    )  # batch norm sees micro-batches
    alone, whole = observe(config), observe(config.with_values(accumulate=1))
    (found, _) = together(2, observe_together, config, {})
    assert distance(flat(found["gradients"]), flat(alone["gradients"])) < 1e-4
    assert distance(flat(whole["gradients"]), flat(alone["gradients"])) > 1e-2


def test_local_batch_norm_trains_otherwise_and_still_ends_in_one_state(
    tiny: Tiny, together: Together
) -> None:
    config = tiny(epochs=1, **RESNET)
    synchronised = together(2, observe_together, config, {})
    local = together(2, observe_together, config, {"batch_norm": "local"})
    assert largest_deviation(synchronised[0]["rows"], local[0]["rows"]) > 1e-3
    for name, tensor in local[0]["state"]["model"].items():
        assert torch.equal(tensor, local[1]["state"]["model"][name])
    assert local[0]["rows"] == local[1]["rows"]


def test_a_synchronised_batch_norm_is_batch_norm_over_the_parts_of_a_batch(together: Together) -> None:
    # A mean far above the deviation: by the mean of squares, nothing would be left of the variance.
    x = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 0.1 + 100
    exact = nn.Sequential(nn.BatchNorm2d(3)).double()
    y, x_gradient, gradients, state = normalised(exact, x.double())
    first, second = together(2, normalise_together, x, [5, 2])
    assert distance(torch.cat([first[0], second[0]]), y) < 1e-3
    assert distance(torch.cat([first[1], second[1]]), x_gradient) < 1e-3
    for name, gradient in gradients.items():
        assert distance(first[2][name] + second[2][name], gradient) < 1e-3
    for name, value in state.items():
        assert torch.allclose(first[3][name].double(), value.double(), rtol=1e-4)
        assert torch.equal(first[3][name], second[3][name])


def test_a_synchronised_batch_norm_infers_as_before() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4)).eval()
    x = torch.randn(3, 4, 2)
    before = model(x)
    assert torch.equal(synchronise(model, CPU)(x), before)
    assert isinstance(model[0], SynchronisedBatchNorm)


def test_a_micro_batch_of_fewer_images_than_ranks_is_refused(tiny: Tiny, digits: Images) -> None:
    with pytest.raises(ConfigError, match=r"batch_size = 64 in 32 micro-batches .* 3 ranks"):
        Trial(tiny(accumulate=32), digits, CPU, ranks=Ranks(0, 3))


# --- Work by ranks -------------------------------------------------------------------------------------


def test_rank_0_alone_writes_yields_and_decides(tiny: Tiny, together: Together, tmp_path: Path) -> None:
    configs = [tiny(epochs=2), tiny(epochs=4, seed=1), tiny(train_limit=63)]
    stores = [tmp_path / "runs", tmp_path / "not mine"]
    ends, none = together(2, work_together, configs, stores, {"decide": stop_at_2})
    assert none == []
    assert not stores[1].exists()
    assert [(end.state, end.epoch) for end in ends] == [("stopped", 2), ("stopped", 2), ("failed", 0)]
    assert ends[2].failure == "config"
    assert [end.attempts[0].ranks for end in ends] == [2, 2, 2]
    assert ends[0].provenance["batch_norm"] == "synchronised"
    alone = RunConfig(store=tmp_path / "alone", stopping=True)
    list(work(configs[:2], alone, decide=stop_at_2))
    for config in configs[:2]:
        assert largest_deviation(table(alone.store, config), table(stores[0], config)) < 1e-6


def test_a_trial_goes_on_with_another_number_of_ranks(tiny: Tiny, together: Together, tmp_path: Path) -> None:
    short, long = tiny(epochs=2), tiny(epochs=4)
    for first, then in ((2, 1), (1, 2)):
        store = tmp_path / f"{first} then {then}"
        together(first, work_together, [short], [store] * 2, {})
        together(then, work_together, [long], [store] * 2, {})
        info = info_of(store, long)
        assert [attempt.ranks for attempt in info.attempts] == [first, then]
        assert info.attempts[-1].from_epoch == 2
    list(work([long], RunConfig(store=tmp_path / "alone")))
    for store in ("2 then 1", "1 then 2"):
        found, expected = table(tmp_path / store, long), table(tmp_path / "alone", long)
        assert largest_deviation(found, expected) < 1e-5
        assert found[-1]["test_loss"] == pytest.approx(expected[-1]["test_loss"], rel=1e-5)


def test_the_predictions_of_all_ranks_are_kept_in_the_order_of_the_images(
    tiny: Tiny, together: Together, tmp_path: Path
) -> None:
    config = tiny(epochs=2)
    together(3, work_together, [config], [tmp_path / "three", *[tmp_path / "not mine"] * 2], {})
    list(work([config], RunConfig(store=tmp_path / "alone")))
    found, expected = (SweepStore(tmp_path / name).trial(config.trial_id) for name in ("three", "alone"))
    one, other = found.predictions(), expected.predictions()
    assert one is not None
    assert other is not None
    assert one.label.tolist() == other.label.tolist()
    assert one.prediction.tolist() == other.prediction.tolist()
    assert np.abs(one.confidence - other.confidence).max() < 1e-4
    assert one.accuracy == found.records()["test_accuracy"][-1].as_py()


@pytest.mark.faults
@pytest.mark.parametrize("dying", [0, 2])
def test_where_a_rank_dies_the_others_end_too_and_the_same_call_goes_on_to_the_same_bits(
    tiny: Tiny, start: Start, together: Together, tmp_path: Path, dying: int
) -> None:
    # Three: the order in which gradients are added shows from there on. Widths that share buckets unevenly.
    config = tiny(epochs=12, dropout=0.2, augment="flip_crop", hidden=[64, 64, 32])
    stores = [tmp_path / "killed"] * 3
    members = start(3, work_together, [config], stores, {})
    while SweepStore(stores[0]).records().num_rows < 2:
        assert members[0].is_alive()
        time.sleep(0.005)
    members[dying].kill()
    for member in members:
        member.join(TIMEOUT_SECONDS)
    assert [member.exitcode for member in members] == [-9 if r == dying else 1 for r in range(3)]
    info = info_of(stores[0], config)
    assert 2 <= len(table(stores[0], config)) < 12
    assert (info.state, ends_of(info)) == (("failed", ["rendezvous"]) if dying else ("lost", [""]))
    together(3, work_together, [config], stores, {})
    assert info_of(stores[0], config).state == "completed"
    together(3, work_together, [config], [tmp_path / "undisturbed"] * 3, {})
    assert table(stores[0], config) == table(tmp_path / "undisturbed", config)


@pytest.mark.usefixtures("_failing_models")
def test_a_failure_of_another_rank_is_the_trials_with_its_kind_and_harms_no_other_trial(
    tiny: Tiny, together: Together, tmp_path: Path
) -> None:
    tight, bad, sound = tiny(model="narrow on rank 1", seed=2), tiny(model="narrow on rank 1", seed=1), tiny()
    together(2, work_together, [tight, bad, sound], [tmp_path] * 2, {})
    tight_info, bad_info = info_of(tmp_path, tight), info_of(tmp_path, bad)
    assert ends_of(tight_info) == ["oom", "completed"]
    assert [attempt.accumulate for attempt in tight_info.attempts] == [1, 2]
    assert ends_of(bad_info) == ["bug", "bug"]
    assert "on rank 1: KeyError: 'layer'" in bad_info.attempts[-1].message
    assert ends_of(info_of(tmp_path, sound)) == ["completed"]


@pytest.mark.usefixtures("_failing_models")
def test_a_rank_that_is_told_to_leave_interrupts_the_trial_and_ends_all(
    tiny: Tiny, start: Start, tmp_path: Path
) -> None:
    config = tiny(model="leaving on rank 1")
    members = start(2, work_together, [config], [tmp_path] * 2, {})
    for member in members:
        member.join(TIMEOUT_SECONDS)
    assert [member.exitcode for member in members] == [1, 1]
    info = info_of(tmp_path, config)
    assert (info.state, ends_of(info)) == ("interrupted", ["preempted"])


# --- Meeting -------------------------------------------------------------------------------------------


def test_ranks_are_read_from_torchs_own_variables() -> None:
    assert ranks_from_environment({}) == ALONE
    variables = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert ranks_from_environment(variables) == Ranks(5, 8, 1)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "one"}, "RANK = one.*not integers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2, WORLD_SIZE = 2.*no such rank"),
        ({"RANK": "-1"}, "no such rank"),
    ],
)
def test_ranks_that_cannot_be_are_refused(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ranks_from_environment(variables)


def test_a_place_that_starts_another_number_of_processes_is_told(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="ranks = 4, but WORLD_SIZE = 2"):
        list(work([tiny()], RunConfig(store=tmp_path, ranks=4)))
    assert [end.state for end in work([tiny()], RunConfig(store=tmp_path))] == ["completed"]  # not its ranks


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A port that is taken, and told to be the ranks'."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv(RANK_TOKEN, "of this test")
        yield taken


def test_a_port_that_is_taken_is_a_failure_of_its_kind(port: socket.socket) -> None:
    port.listen()
    with pytest.raises(OSError, match="Address already in use") as caught:
        RankChannel(Ranks(0, 2), 2)
    assert kind_of(caught.value) == "port"


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_do_not_meet_in_time_are_a_failure_of_their_kind(port: socket.socket, rank: int) -> None:
    port.close()
    before = time.monotonic()
    with pytest.raises(dist.DistError) as caught:
        RankChannel(Ranks(rank, 2), 1)
    assert kind_of(caught.value) == "rendezvous"
    assert time.monotonic() - before < 20


def test_a_place_that_exports_no_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RANK_TOKEN, "of this test")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match=r"MASTER_ADDR = ''.*has to export both"):
        RankChannel(Ranks(0, 2))


def test_a_place_that_exports_no_token_is_told(port: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RANK_TOKEN)
    with pytest.raises(ConfigError, match=f"{RANK_TOKEN} is not set"):
        RankChannel(Ranks(0, 2))


# --- Strangers at the port ---------------------------------------------------------------------------------


class Intruder:
    """A value whose pickle runs a function where it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_seal_holds_for_one_token_one_key_and_one_message() -> None:
    sealed = seal("a", "message/0/1", b"continue")
    assert unseal("a", "message/0/1", sealed) == b"continue"
    assert unseal("b", "message/0/1", sealed) is None
    assert unseal("a", "message/0/2", sealed) is None
    assert unseal("a", "message/0/1", sealed[:-1] + b"d") is None
    assert unseal("a", "message/0/1", b"") is None


def test_a_message_of_a_stranger_at_the_port_is_not_acted_on(
    port: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = port.getsockname()[1]
    port.close()
    stranger = dist.TCPStore("127.0.0.1", number, is_master=True, wait_for_workers=False)
    stranger.set("message/0/1", "completed")
    with pytest.raises(RankError, match="came from elsewhere"):
        RankChannel(Ranks(1, 2), 5).receive()


def share_an_intruder(mark: Path) -> str:
    """Rank 0 sends a pickle that runs a function; the other says what it raised."""
    with RankChannel(ranks_from_environment(), TIMEOUT_SECONDS) as channel, channel.attempt(CPU):
        try:
            channel.share(Intruder(mark) if channel.ranks.leads else None)
        except Exception as error:
            return type(error).__name__
    return ""


def test_what_rank_0_shares_runs_no_code(together: Together, tmp_path: Path) -> None:
    assert together(2, share_an_intruder, tmp_path / "ran")[1] == "UnpicklingError"
    assert not (tmp_path / "ran").exists()


def test_on_one_node_the_port_of_rank_0_is_open_to_no_network(
    port: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port.close()
    monkeypatch.setenv("MASTER_ADDR", "198.51.100.7")  # of no machine here
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    number = int(os.environ["MASTER_PORT"])
    with _listen(*_address()) as listener:
        assert listener.getsockname() == ("127.0.0.1", number)


@pytest.mark.parametrize(
    ("host", "at"), [("127.0.0.1", "127.0.0.1"), ("localhost", "::"), ("no.such.host", "::")]
)
def test_rank_0_listens_on_its_address_and_on_all_only_where_its_name_has_none(host: str, at: str) -> None:
    with _listen(host, 0) as listener:
        assert listener.getsockname()[0] in (at, "0.0.0.0" if at == "::" else at)
