"""Training steps timed: our trainer against a textbook loop, and against a bare one without a data pipeline.

Each contestant is a generator of seconds and lives in a process of its own, so that neither inherits the
other's allocator or threads. A round asks each for one measurement; the first round is warm-up.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from mixsweep.core.data import augment
from mixsweep.core.data.datasets import CIFAR10_MEAN, CIFAR10_STD, Images
from mixsweep.core.models.build import build_model
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.training import device as devices
from mixsweep.core.training.optim import build_optimizer
from mixsweep.core.training.trainer import Trial
from tests.benchmarks.comparison import Comparison

CLASSES = 10
WORKERS = (0, 2)  # of the textbook's DataLoader; the faster one counts
_WARM_STEPS = 8  # of the textbook, outside the timer: its worker processes start, its queues fill
_PREFETCHED = 4  # batches that two workers prepare ahead


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and for how many steps a measurement."""

    name: str
    config: ImageConfig
    steps: int
    threads: int
    device: str

    @property
    def images(self) -> int:
        return self.steps * self.config.batch_size


Contestant = Callable[[Case], Iterator[float]]


def cases(threads: int, device: str, full: bool) -> list[Case]:
    """The study's models under the course's recipe; `full` adds those that take minutes on a CPU."""
    recipe = ImageConfig(epochs=1_000_000)  # the generator is asked for as many as there are rounds
    mixer = recipe.with_values(model="mixer")
    chosen = [("MLP", recipe, 40), ("Mixer patch 8", mixer.with_values(patch_size=8), 12)]
    if full:
        chosen += [("ResNet18", recipe.with_values(model="resnet18"), 3)]
        chosen += [("Mixer patch 4", mixer.with_values(patch_size=4), 8)]
    return [
        Case(name=name, config=config, steps=steps, threads=threads, device=device)
        for name, config, steps in chosen
    ]


def bf16_is_native(device: str) -> bool:
    """Whether the device computes in bf16, rather than imitating it in fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not words.isdisjoint({"avx512_bf16", "amx_bf16"})


def against_textbook(
    case: Case, rounds: int, precisions: Sequence[str], target: float | None
) -> list[Comparison]:
    """Our trainer in each precision against the better of the textbook's loops, which computes in fp32.

    Args:
        target: of the last precision.
    """
    ours = [(trainer, _in_precision(case, precision)) for precision in precisions]
    textbooks = [(textbook_0, case), (textbook_2, case)]
    seconds = in_turn([*ours, *textbooks], rounds)
    books = dict(zip(WORKERS, seconds[len(ours) :]))
    workers = min(books, key=lambda n: median(books[n]))
    return [
        Comparison(
            part="a",
            ours=f"{case.name}, {precision}",
            theirs=f"textbook loop, fp32, {workers} workers",
            ours_seconds=tuple(own),
            theirs_seconds=tuple(books[workers]),
            images=case.images,
            target=target if precision == precisions[-1] else None,
        )
        for precision, own in zip(precisions, seconds)
    ]


def against_bare_loop(case: Case, rounds: int, precision: str, target: float | None) -> list[Comparison]:
    """Our trainer, with and without augmentation, against a bare loop of the same precision."""
    case = _in_precision(case, precision)
    augments = ("flip_resized_crop", "none")
    ours = [(trainer, replace(case, config=case.config.with_values(augment=kind))) for kind in augments]
    *own, bare = in_turn([*ours, (bare_loop, case)], rounds)
    return [
        Comparison(
            part="b",
            ours=f"{case.name}, {precision}, augment {kind}",
            theirs="bare loop on resident tensors",
            ours_seconds=tuple(seconds),
            theirs_seconds=tuple(bare),
            images=case.images,
            target=target,
        )
        for kind, seconds in zip(augments, own)
    ]


def in_turn(contestants: Sequence[tuple[Contestant, Case]], rounds: int) -> list[list[float]]:
    """Seconds of each contestant in each round, A B A B …, after a round of warm-up."""
    fresh = multiprocessing.get_context("forkserver")  # a fork of this process would inherit its threads
    fresh.set_forkserver_preload([__name__])  # torch is imported once, not by each contestant
    seconds: list[list[float]] = [[] for _ in contestants]
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, mp_context=fresh)) for _ in contestants]
        for _ in range(1 + rounds):
            for pool, (contestant, case), mine in zip(pools, contestants, seconds):
                mine.append(pool.submit(_measure, contestant, case).result())
    return [mine[1:] for mine in seconds]


def _measure(contestant: Contestant, case: Case) -> float:
    return next(_begun(contestant, case))


@cache
def _begun(contestant: Contestant, case: Case) -> Iterator[float]:
    """A contestant at work in this process."""
    torch.set_num_threads(case.threads)
    return contestant(case)


def trainer(case: Case) -> Iterator[float]:
    """Our trainer, all that an epoch costs but its evaluation; a measurement is an epoch."""
    devices.prepare_process(case.threads)
    trial = Trial(case.config, random_images(case.images), torch.device(case.device))
    records = trial.train()
    while True:
        start = time.perf_counter()
        record = next(records)
        yield time.perf_counter() - start - record["valid_seconds"]


def textbook_0(case: Case) -> Iterator[float]:
    """The textbook's loop, which loads its images itself."""
    return textbook(case, WORKERS[0])


def textbook_2(case: Case) -> Iterator[float]:
    """The textbook's loop with two worker processes that load."""
    return textbook(case, WORKERS[1])


def textbook(case: Case, workers: int) -> Iterator[float]:
    """The loop of the course: PIL images decoded beforehand, torchvision's transforms, a DataLoader, AdamW.

    Loss and accuracy are read at each step.
    """
    config, device = case.config, torch.device(case.device)
    data = _Pictures(random_images(case.images))
    ahead = _PREFETCHED if workers else 0  # so that workers have work to the last timed step
    sampler = RandomSampler(data, num_samples=(_WARM_STEPS + case.steps + ahead) * config.batch_size)
    loader = DataLoader(
        data,
        config.batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=True,
        multiprocessing_context="fork" if workers else None,  # as on Linux; here it would inherit forkserver
    )
    model = build_model(config, CLASSES).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    losses: list[float] = []
    accuracies: list[float] = []

    def step(x_BCHW: Tensor, labels_B: Tensor) -> None:
        x_BCHW, labels_B = x_BCHW.to(device), labels_B.to(device)
        optimizer.zero_grad()
        logits_BK = model(x_BCHW)
        loss = F.cross_entropy(logits_BK, labels_B)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        accuracies.append((logits_BK.argmax(1) == labels_B).float().mean().item())

    model.train()
    while True:
        batches = iter(loader)
        for batch in islice(batches, _WARM_STEPS):
            step(*batch)
        devices.synchronize(device)
        start = time.perf_counter()
        for batch in islice(batches, case.steps):
            step(*batch)
        devices.synchronize(device)
        seconds = time.perf_counter() - start
        del batches  # its workers end here, not in the next contestant's time
        yield seconds


def bare_loop(case: Case) -> Iterator[float]:
    """Forward, backward and update on normalised float images that lie on the device; nothing is read."""
    devices.prepare_process(case.threads)
    config, device = case.config, torch.device(case.device)
    layout = torch.channels_last if config.model == "resnet18" else torch.contiguous_format
    x_NCHW = torch.randn(case.images, 3, 32, 32, device=device).contiguous(memory_format=layout)
    labels_N = torch.randint(CLASSES, (case.images,), device=device)
    batches = list(zip(x_NCHW.split(config.batch_size), labels_N.split(config.batch_size)))
    model = build_model(config, CLASSES).to(device).to(memory_format=layout)
    optimizer = build_optimizer(config, model.parameters())
    bf16 = config.precision == "bf16"
    model.train()
    while True:
        devices.synchronize(device)
        start = time.perf_counter()
        for x_BCHW, labels_B in batches:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
                logits_BK = model(x_BCHW)
            F.cross_entropy(logits_BK.float(), labels_B).backward()
            optimizer.step()
        devices.synchronize(device)
        yield time.perf_counter() - start


def random_images(train_count: int) -> Images:
    """Random images, as many to train on, and one each to validate and to test."""
    generator = torch.Generator().manual_seed(0)
    count = train_count + 1
    pixels = torch.randint(256, (count + 1, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count + 1,), generator=generator)
    return Images(
        train_images=pixels[:count],
        train_labels=labels[:count],
        test_images=pixels[count:],
        test_labels=labels[count:],
        classes=CLASSES,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        valid_count=1,
    )


class _Pictures(Dataset[tuple[Tensor, int]]):
    """The same images as PIL's, each transformed by the course's recipe when it is asked for."""

    def __init__(self, images: Images):
        self._pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images.train_images]
        self._labels = images.train_labels.tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomResizedCrop(32, augment.SCALE, augment.RATIO),
                transforms.ToTensor(),
                transforms.Normalize(images.mean, images.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._pictures[index]), self._labels[index]


def _in_precision(case: Case, precision: str) -> Case:
    return replace(case, config=case.config.with_values(precision=precision))
