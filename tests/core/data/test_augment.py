"""core.data.augment against torchvision and PIL."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from mixsweep.core.data.augment import Boxes, Crops, apply, draw_crops, prepare, sample, to_crops

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
KINDS = ("none", "flip_crop", "flip_resized_crop")


def random_images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator(0))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(kind: str, count: int, seed: int) -> Crops | None:
    return next(draw_crops(kind, 1, count, generator(seed), torch.device("cpu")))


def each_box() -> list[tuple[int, int, int, int]]:
    """Every size along each axis, at both ends of where it may begin."""
    sizes = range(27, 33)
    return [
        (top, left, height, width)
        for height in sizes
        for width in sizes
        for top, left in ((0, 32 - width), (32 - height, 0))
    ]


def crops_of(rows: list[tuple[int, int, int, int]], flip: bool) -> Crops:
    top, left, height, width = torch.tensor(rows).T
    boxes = Boxes(top, left, height, width, torch.full((len(rows),), flip))
    return to_crops(boxes, torch.device("cpu"))


@pytest.mark.parametrize("flip", [False, True])
def test_a_resized_crop_equals_torchvisions_for_every_size_of_box(flip: bool) -> None:
    rows = each_box()
    images = random_images(len(rows))
    ours = apply(images, crops_of(rows, flip))
    for image, box, made in zip(images.float(), rows, ours):
        expected = reference.resized_crop(image, *box, size=[32, 32], antialias=True)
        expected = reference.horizontal_flip(expected) if flip else expected
        torch.testing.assert_close(made, expected, atol=1e-3, rtol=0)


def test_a_resized_crop_is_within_rounding_of_pils() -> None:
    rows = each_box()
    images = random_images(len(rows))
    ours = apply(images, crops_of(rows, flip=False))
    for image, (top, left, height, width), made in zip(images, rows, ours):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        crop = picture.crop((left, top, left + width, top + height))
        resized = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
        assert np.abs(made.permute(1, 2, 0).numpy() - resized).max() <= 1.5


def test_a_padded_crop_equals_torchvisions_for_every_position() -> None:
    rows = [(top, left, 32, 32) for top in range(-4, 5) for left in range(-4, 5)]
    images = random_images(len(rows))
    for flip in (False, True):
        ours = apply(images, crops_of(rows, flip))
        for image, (top, left, _, _), made in zip(images, rows, ours):
            expected = reference.crop(reference.pad(image, [4, 4, 4, 4]), top + 4, left + 4, 32, 32)
            expected = reference.horizontal_flip(expected) if flip else expected
            assert torch.equal(made, expected.float())


@pytest.mark.parametrize("size", [(28, 28), (24, 40), (80, 72), (96, 96)])
def test_crops_of_images_of_any_size_equal_torchvisions(size: tuple[int, int]) -> None:
    count = 40
    images = torch.randint(0, 256, (count, 2, *size), dtype=torch.uint8, generator=generator(0))
    boxes = sample("flip_resized_crop", 1, count, generator(3), size)
    ours = apply(images, to_crops(boxes, torch.device("cpu"), size))
    rows = zip(*(values.tolist() for values in vars(boxes).values()))
    for image, (top, left, height, width, flip), made in zip(images.float(), rows, ours):
        expected = reference.resized_crop(image, top, left, height, width, size=list(size), antialias=True)
        expected = reference.horizontal_flip(expected) if flip else expected
        torch.testing.assert_close(made, expected, atol=1e-2, rtol=0)
    padded = sample("flip_crop", 1, count, generator(4), size)
    ours = apply(images, to_crops(padded, torch.device("cpu"), size))
    for image, top, left, flip, made in zip(images, padded.top, padded.left, padded.flip, ours):
        expected = reference.crop(
            reference.pad(image, [4, 4, 4, 4]), int(top) + 4, int(left) + 4, size[0], size[1]
        )
        assert torch.equal(made, (reference.horizontal_flip(expected) if flip else expected).float())


@pytest.mark.parametrize("size", [(28, 28), (30, 40), (20, 200)])
def test_resized_boxes_of_images_of_any_size_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    count = 10_000
    ours = sample("flip_resized_crop", 1, count, generator(1), size)
    torch.manual_seed(2)
    image = torch.zeros(3, *size)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.8, 1], [0.9, 1.1]) for _ in range(count)])
    for mine, column in ((ours.height, 2), (ours.width, 3)):
        if len(mine.unique()) == 1:
            assert mine.unique().tolist() == theirs[:, column].unique().tolist()
        else:
            counts = torch.stack([mine.bincount(minlength=300), theirs[:, column].bincount(minlength=300)])
            assert stats.chi2_contingency(counts[:, counts.sum(0) >= 10].numpy()).pvalue > 0.01
    assert torch.stack([ours.top, ours.left]).min() >= 0
    assert (ours.top + ours.height).max() <= size[0]
    assert (ours.left + ours.width).max() <= size[1]


def test_resized_boxes_are_distributed_as_torchvisions() -> None:
    count = 20_000
    ours = sample("flip_resized_crop", 1, count, generator(1))
    torch.manual_seed(2)
    image = torch.zeros(3, 32, 32)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.8, 1], [0.9, 1.1]) for _ in range(count)])
    # The whole box at once, so that sizes and positions agree together.
    pairs = (
        ((ours.height, ours.width), (2, 3)),
        ((ours.top, ours.height), (0, 2)),
        ((ours.left, ours.width), (1, 3)),
    )
    for (a, b), (i, j) in pairs:
        mine, other = a * 33 + b, theirs[:, i] * 33 + theirs[:, j]
        table = torch.stack([mine.bincount(minlength=1100), other.bincount(minlength=1100)])
        table = table[:, table.sum(0) >= 10]
        assert stats.chi2_contingency(table.numpy()).pvalue > 0.01
    # What the chi-squared test leaves out as too rare to count is in range too.
    assert torch.stack([ours.top, ours.left]).min() >= 0
    assert torch.stack([ours.top + ours.height, ours.left + ours.width]).max() <= 32
    assert theirs[:, 2].unique().tolist() == ours.height.unique().tolist()
    assert theirs[:, 3].unique().tolist() == ours.width.unique().tolist()


def test_padded_boxes_are_uniform_over_all_81_positions() -> None:
    boxes = sample("flip_crop", 1, 81 * 200, generator(1))
    counts = ((boxes.top + 4) * 9 + boxes.left + 4).bincount(minlength=81)
    assert len(counts) == 81
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize("kind", KINDS[1:])
def test_half_of_the_images_are_flipped_whatever_their_box(kind: str) -> None:
    boxes = sample(kind, 1, 20_000, generator(3))
    assert stats.binomtest(int(boxes.flip.sum()), 20_000).pvalue > 0.01
    left_half = boxes.flip[boxes.left <= 0]
    assert stats.binomtest(int(left_half.sum()), len(left_half)).pvalue > 0.01


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_generator_alone_decides_the_augmentation(kind: str) -> None:
    images = random_images(64)
    torch.manual_seed(0)
    first = prepare(images, MEAN, STD, crops(kind, 64, 7))
    torch.manual_seed(1)
    assert torch.equal(first, prepare(images, MEAN, STD, crops(kind, 64, 7)))
    assert not torch.equal(first, prepare(images, MEAN, STD, crops(kind, 64, 8)))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_batches_drawn_at_once_are_those_drawn_one_by_one(kind: str) -> None:
    stream = generator(7)
    one_by_one = [sample(kind, 1, 48, stream) for _ in range(5)]
    at_once = sample(kind, 5, 48, generator(7))
    for name in vars(at_once):
        assert torch.equal(getattr(at_once, name), torch.cat([getattr(batch, name) for batch in one_by_one]))
    assert not torch.equal(one_by_one[0].top, one_by_one[1].top)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_image_stays_constant_under_resized_crops(level: int) -> None:
    images = torch.full((256, 3, 32, 32), level, dtype=torch.uint8)
    made = prepare(images, MEAN, STD, crops("flip_resized_crop", 256, 5))
    expected = prepare(images, MEAN, STD)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_images_are_normalised_float32(kind: str) -> None:
    images = random_images(16)
    drawn = crops(kind, 16, 9)
    made = prepare(images, MEAN, STD, drawn)
    assert (made.dtype, made.shape) == (torch.float32, images.shape)
    levels = images.float() if drawn is None else apply(images, drawn)
    torch.testing.assert_close(made, reference.normalize(levels / 255, list(MEAN), list(STD)))


def test_images_are_left_as_they_were() -> None:
    images = random_images(16)
    before = images.clone()
    for kind in KINDS:
        prepare(images, MEAN, STD, crops(kind, 16, 9))
    assert torch.equal(images, before)


def test_an_augmentation_of_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'flip' is not known"):
        crops("flip", 2, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_sees_the_same_augmentation_and_the_host_never_waits(kind: str) -> None:
    images = random_images(64)
    on_gpu = images.cuda()
    (drawn,) = draw_crops(kind, 1, 64, generator(7), on_gpu.device)
    prepare(on_gpu, MEAN, STD, drawn)  # the tables are moved once
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = prepare(on_gpu, MEAN, STD, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(made.cpu(), prepare(images, MEAN, STD, crops(kind, 64, 7)))
