"""core.data.datasets: every accepted layout, every refused one, the cache, the split and the order."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from mixsweep.core import registry
from mixsweep.core.data.datasets import (
    Images,
    epoch_order,
    load_images,
    split_indices,
    stream_generator,
    stream_seed,
)
from mixsweep.core.failures import DataError
from mixsweep.core.trainables.image.config import ImageConfig

DIGITS = ImageConfig(dataset="digits")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache of images"
    monkeypatch.setenv("SWEEP_CACHE", str(folder))
    return folder


def pixels(count: int, seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, images: np.ndarray, labels: Sequence[object], column: str = "img") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(image), "path": None} for image in images]
    pq.write_table(pa.table({column: cells, "label": labels}), path)


def write_shards(folder: Path, column: str = "img") -> tuple[np.ndarray, list[int]]:
    """Two train shards of six images each, one test shard of four; returns the train part."""
    train, labels = pixels(12, 0), [i % 10 for i in range(12)]
    write_shard(folder / "train-00000-of-00002.parquet", train[:6], labels[:6], column)
    write_shard(folder / "train-00001-of-00002.parquet", train[6:], labels[6:], column)
    write_shard(folder / "test-00000-of-00001.parquet", pixels(4, 1), [9, 8, 7, 6], column)
    return train, labels


def write_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The archive's layout with three images a batch, and torchvision told their digests."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    train = pixels(15, 2)

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(images: np.ndarray) -> dict[str, object]:
        return {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), "labels": [3] * len(images)}

    digests = [write(f"data_batch_{i + 1}", batch(train[3 * i : 3 * i + 3])) for i in range(5)]
    monkeypatch.setattr(CIFAR10, "train_list", digests)
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(pixels(3, 3)))])
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta[1]})
    return train


def assert_train_part(images: Images, expected: np.ndarray) -> None:
    assert torch.equal(images.train_images, torch.from_numpy(expected.transpose(0, 3, 1, 2).copy()))


@pytest.mark.parametrize("column", ["img", "image"])
@pytest.mark.parametrize("inside", ["", "data", "plain_text"])
def test_parquet_shards_are_read_in_order(tmp_path: Path, column: str, inside: str) -> None:
    train, labels = write_shards(tmp_path / "a b" / inside, column)
    images = load_images("cifar10", tmp_path / "a b")
    assert_train_part(images, train)
    assert images.train_labels.tolist() == labels
    assert images.test_labels.tolist() == [9, 8, 7, 6]
    assert (images.classes, images.class_names[3]) == (10, "cat")


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_the_official_archives_folder_is_read(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write_batches(tmp_path / "set", monkeypatch)
    images = load_images("cifar10", tmp_path / "set" / inside)
    assert_train_part(images, train)
    assert images.train_labels.tolist() == [3] * 15
    assert len(images.test_labels) == 3


def test_the_official_archives_folder_is_read_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write_batches(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path / "cifar-10-batches-py")
    assert_train_part(load_images("cifar10", Path()), train)


def test_an_archive_with_other_digests_is_refused_before_it_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_batches(tmp_path, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-100] + b"x" * 100)
    with pytest.raises(DataError, match="is damaged"):
        load_images("cifar10", tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match="is damaged"):
        load_images("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").unlink()
    with pytest.raises(DataError, match=r"batches\.meta is missing"):
        load_images("cifar10", tmp_path)


def test_no_folder_a_missing_one_and_an_empty_one_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give --data DIR or set SWEEP_DATA"):
        load_images("cifar10", None)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_images("cifar10", tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"cifar-10-batches-py/ nor .* nor train-\*\.parquet.*download_cifar10\("
    ):
        load_images("cifar10", tmp_path)
    with pytest.raises(DataError, match="'cifar11' is neither built in nor registered"):
        load_images("cifar11", tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "column", "message"),
    [
        (pixels(2, 0), [1, 10], "img", "row 1: label 10, not a class"),
        (pixels(2, 0), [-1, 1], "img", "row 0: label -1, not a class"),
        (pixels(2, 0), [1, None], "img", "row 1: label None"),
        (pixels(2, 0), [1.0, 2.0], "img", "row 0: label 1.0"),
        (pixels(2, 0, side=28), [1, 1], "img", r"row 0: image of \(28, 28\) pixels"),
        (pixels(2, 0), [1, 1], "picture", "columns picture, label; needed: img or image, and label"),
    ],
)
def test_a_shard_with_wrong_images_labels_or_columns_is_refused(
    tmp_path: Path, images: np.ndarray, labels: list[object], column: str, message: str
) -> None:
    write_shards(tmp_path)
    write_shard(tmp_path / "test-00000-of-00001.parquet", images, labels, column)
    with pytest.raises(DataError, match=message):
        load_images("cifar10", tmp_path)


def test_a_missing_damaged_or_empty_shard_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    test_shard = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(test_shard).slice(0, 0), test_shard)
    with pytest.raises(DataError, match=r"test shards in .* hold no image"):
        load_images("cifar10", tmp_path)
    table = pa.table({"img": [{"bytes": b"no picture", "path": None}], "label": [1]})
    pq.write_table(table, test_shard)
    with pytest.raises(DataError, match="row 0: no decodable image in 'img'"):
        load_images("cifar10", tmp_path)
    test_shard.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        load_images("cifar10", tmp_path)
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="holds 1 of the 2 train shards"):
        load_images("cifar10", tmp_path)


def whole_caches(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_the_second_load_maps_the_cache_and_reads_no_source(tmp_path: Path, cache: Path) -> None:
    train, _ = write_shards(tmp_path)
    load_images("cifar10", tmp_path)
    for shard in tmp_path.glob("*.parquet"):  # same name, size and time, other content
        facts = shard.stat()
        shard.write_bytes(b"x" * facts.st_size)
        os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    images = load_images("cifar10", tmp_path)
    assert_train_part(images, train)
    (folder,) = whole_caches(cache)
    assert str(folder / "train_images.npy") in Path("/proc/self/maps").read_text()


def test_source_files_of_another_size_or_time_are_decoded_anew(tmp_path: Path) -> None:
    write_shards(tmp_path)
    load_images("cifar10", tmp_path)
    shard = tmp_path / "test-00000-of-00001.parquet"
    facts = shard.stat()
    write_shard(shard, pixels(5, 9), [1, 2, 3, 4, 5])
    os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert load_images("cifar10", tmp_path).test_labels.tolist() == [1, 2, 3, 4, 5]
    size = shard.stat().st_size
    write_shard(shard, pixels(5, 9), [5, 4, 3, 2, 1])
    assert shard.stat().st_size == size
    os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1_000_000_000))
    assert load_images("cifar10", tmp_path).test_labels.tolist() == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("damage", ["cut", "missing", "empty", "headless"])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, cache: Path, damage: str) -> None:
    train, _ = write_shards(tmp_path)
    load_images("cifar10", tmp_path)
    (folder,) = whole_caches(cache)
    file = folder / "train_images.npy"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.write_bytes(b"x" * file.stat().st_size)
    assert_train_part(load_images("cifar10", tmp_path), train)
    assert whole_caches(cache) == [folder]
    assert_train_part(load_images("cifar10", tmp_path), train)


def test_writing_into_loaded_images_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    train, _ = write_shards(tmp_path)
    load_images("cifar10", tmp_path).train_images.zero_()
    assert_train_part(load_images("cifar10", tmp_path), train)


def test_a_cache_folder_that_cannot_be_written_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = write_shards(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("SWEEP_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert_train_part(load_images("cifar10", tmp_path), train)
    assert len(list(tmp_path.glob("tmp/mixsweep-*/cifar10-*/train_images.npy"))) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set SWEEP_CACHE to a folder"):
        load_images("cifar10", tmp_path)


@pytest.mark.parametrize("kind", ["open to others", "a link"])
def test_a_temporary_cache_that_others_can_write_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWEEP_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder = tmp_path / "temporary" / f"mixsweep-{os.getuid()}"
    (tmp_path / "temporary").mkdir()
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    write_shards(tmp_path / "data")
    with pytest.raises(DataError, match="set SWEEP_CACHE"):
        load_images("cifar10", tmp_path / "data")


def test_files_of_like_names_are_both_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "model", {})
    for name in ("a-b", "a_b"):
        path = tmp_path / f"{name}.py"
        path.write_text(f"from mixsweep import register_model\nregister_model({name!r}, print)\n")
        registry.import_file(path)
    assert set(registry._registered["model"]) == {"a-b", "a_b"}


def test_processes_that_start_together_share_one_cache(tmp_path: Path, cache: Path) -> None:
    write_shards(tmp_path)
    code = (
        "import sys; from pathlib import Path; from mixsweep.core.data.datasets import load_images; "
        "print(int(load_images('cifar10', Path(sys.argv[1])).train_images.long().sum()))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for _ in range(2)
    ]
    sums = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert sums == {f"{int(load_images('cifar10', tmp_path).train_images.long().sum())}\n"}
    assert len(whole_caches(cache)) == 1


def test_digits_are_scikit_learns_all_1797_in_grey() -> None:
    images = load_images("digits", None)
    assert tuple(images.train_images.shape) == (1437, 3, 32, 32)
    assert tuple(images.test_images.shape) == (360, 3, 32, 32)
    every = torch.cat([images.train_images, images.test_images])
    assert torch.equal(every[:, :1].expand(-1, 3, -1, -1), every)
    assert (every.min(), every.max()) == (0, 255)
    labels = torch.cat([images.train_labels, images.test_labels])
    source = load_digits()
    assert labels.bincount().tolist() == np.bincount(source.target).tolist()
    resized = [
        np.asarray(Image.fromarray(digit.astype(np.float32)).resize((32, 32), Image.Resampling.BILINEAR))
        for digit in source.images * 255 / 16
    ]
    expected = torch.from_numpy(np.stack(resized)).flatten(1)
    ours = every[:, 0].flatten(1).float()
    nearest = torch.cdist(ours, expected).argmin(1)
    assert len(nearest.unique()) == 1797
    assert (ours - expected[nearest]).abs().max() <= 0.51  # rounded to whole levels
    assert torch.equal(torch.from_numpy(source.target)[nearest], labels)
    assert images.test_labels.bincount().min() >= 30


def test_digits_statistics_are_those_of_their_train_part() -> None:
    images = load_images("digits", None)
    levels = images.train_images.numpy() / 255
    assert images.mean == pytest.approx([levels.mean()] * 3, rel=1e-12)
    assert images.std == pytest.approx([levels.std()] * 3, rel=1e-12)


def as_cifar(count: int) -> Images:
    blank, labels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64)
    train = blank.expand(count, -1, -1, -1)
    return Images(train, labels, blank, labels[:1], 10, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_the_clean_split_of_50000_is_45000_and_5000_without_overlap() -> None:
    train, valid = split_indices(ImageConfig(), as_cifar(50_000))
    assert (len(train), len(valid)) == (45_000, 5_000)
    assert torch.equal(torch.cat([train, valid]).sort().values, torch.arange(50_000))
    assert not torch.equal(train, train.sort().values)


def test_most_of_the_leaky_splits_valid_images_are_also_trained_on() -> None:
    train, valid = split_indices(ImageConfig(split="leaky"), as_cifar(50_000))
    assert (len(train.unique()), len(valid.unique())) == (45_000, 5_000)
    assert torch.isin(valid, train).float().mean().item() == pytest.approx(0.9, abs=0.02)
    assert torch.equal(train, split_indices(ImageConfig(), as_cifar(50_000))[0])


def test_digits_split_into_1137_and_300() -> None:
    train, valid = split_indices(DIGITS, load_images("digits", None))
    assert (len(train), len(valid)) == (1137, 300)
    assert len(torch.cat([train, valid]).unique()) == 1437


def test_replicas_share_the_split_and_limits_take_its_first_images() -> None:
    images = as_cifar(1000)
    train, valid = split_indices(ImageConfig(), images)
    few, fewer = split_indices(ImageConfig(seed=7, lr=0.5, train_limit=64, valid_limit=10), images)
    assert torch.equal(few, train[:64])
    assert torch.equal(fewer, valid[:10])


def test_too_few_images_to_split_are_a_data_error() -> None:
    with pytest.raises(DataError, match="too few"):
        split_indices(ImageConfig(), as_cifar(9))


def test_an_epochs_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    order = epoch_order(DIGITS, 1, 500)
    assert torch.equal(order.sort().values, torch.arange(500))
    torch.manual_seed(3)
    assert torch.equal(order, epoch_order(DIGITS.with_values(lr=0.5), 1, 500))
    assert not torch.equal(order, epoch_order(DIGITS, 2, 500))
    assert not torch.equal(order, epoch_order(DIGITS.with_values(seed=1), 1, 500))


def test_streams_of_different_purposes_seeds_and_epochs_are_different_numbers() -> None:
    keys = [
        (seed, epoch, name) for seed in range(20) for epoch in range(20) for name in ("order", "augmentation")
    ]
    assert len({stream_seed(*key) for key in keys}) == len(keys)
    draws = torch.stack([torch.rand(100, generator=stream_generator(*key)) for key in keys[:50]])
    correlation = torch.corrcoef(draws) - torch.eye(50)
    assert correlation.abs().max() < 0.5
    assert stream_seed(42, 1, "order") == 3_560_457_520  # a change would change every trial's numbers


def register(monkeypatch: pytest.MonkeyPatch, result: object) -> None:
    monkeypatch.setitem(registry._registered, "dataset", {"mine": lambda data_dir: result})


def test_a_registered_set_is_loaded_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    good = load_images("digits", None)
    register(monkeypatch, good)
    assert load_images("mine", None) is good
    wrong: list[tuple[object, str]] = [
        ({"images": 1}, "returned a dict"),
        (replace(good, train_images=good.train_images.float()), "train_images are torch.float32"),
        (
            replace(good, test_images=good.test_images[:, :1]),
            r"test_images are torch.uint8 \[360, 1, 32, 32\]",
        ),
        (replace(good, train_labels=good.train_labels.int()), "train_labels are torch.int32"),
        (replace(good, test_labels=good.test_labels[:5]), r"test_labels are torch.int64 \[5\]"),
        (replace(good, train_labels=[1, 2]), "not both torch tensors"),  # type: ignore[arg-type]
        (replace(good, classes=9), "train_labels run from 0 to 9, outside 0 … 8"),
        (replace(good, std=(0.0, 1.0, 1.0)), "std above 0"),
        (replace(good, test_images=good.test_images[:0], test_labels=good.test_labels[:0]), "is empty"),
    ]
    for result, message in wrong:
        register(monkeypatch, result)
        with pytest.raises(DataError, match=f"^mine: .*{message}"):
            load_images("mine", None)


def test_images_move_whole() -> None:
    images = load_images("digits", None)
    moved = images.to(torch.device("meta"))
    assert {moved.train_images.device.type, moved.test_labels.device.type} == {"meta"}
    assert replace(images, train_images=moved.train_images).classes == moved.classes
