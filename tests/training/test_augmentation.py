import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpsphere.training.augmentation import Augmentation, batch_rng

AUTHORS = Augmentation(crop=4, flip=True, cutout=6)
ORDERS = [torch.contiguous_format, torch.channels_last]
KINDS = [AUTHORS, Augmentation(crop=4), Augmentation(flip=True), Augmentation(cutout=6)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def slow(image, crop, cutout, top, left, mirror, hole_top, hole_left):
    """One image (channels, height, width), a step at a time."""
    _, height, width = image.shape
    padded = np.pad(image, [(0, 0), (crop, crop), (crop, crop)], mode="reflect")
    image = padded[:, top : top + height, left : left + width].copy()
    if mirror:
        image = image[:, :, ::-1].copy()
    image[:, hole_top : hole_top + cutout, hole_left : hole_left + cutout] = 0
    return image


def slow_batch(images, augmentation, draws):
    """A batch by `slow`; float32 holds every bfloat16."""
    array = images.float().cpu().numpy()
    rows = [
        slow(image, augmentation.crop, augmentation.cutout, *draw)
        for image, draw in zip(array, draws.T.tolist(), strict=True)
    ]
    return torch.from_numpy(np.array(rows).reshape(array.shape)).to(images)


def numbered(*shape):
    """Pixels that are all different and none of which is 0."""
    return torch.arange(1.0, 1 + np.prod(shape)).view(shape)


@st.composite
def cases(draw):
    count, channels = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    side = min(height, width)
    augmentation = Augmentation(draw(st.integers(0, side - 1)), draw(st.booleans()), draw(st.integers(0, side)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    images = torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    return augmentation, images.contiguous(memory_format=draw(st.sampled_from(ORDERS)))


@settings(max_examples=200)
@given(cases(), st.integers(0, 2**32))
def test_every_batch_is_what_the_slow_reference_makes_of_the_same_draws(case, seed):
    augmentation, images = case
    before = images.clone()
    ours = augmentation(images, np.random.default_rng(seed))
    draws = augmentation._draw(len(images), *images.shape[2:], np.random.default_rng(seed))
    assert ours.dtype == images.dtype
    assert torch.equal(ours, slow_batch(images, augmentation, draws))
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 5), (5, 4), (3, 3)])
def test_every_possible_draw_gives_what_the_slow_reference_gives(channels, height, width):
    augmentation = Augmentation(crop=2, flip=True, cutout=2)
    ranges = [range(5), range(5), range(2), range(height - 1), range(width - 1)]
    draws = torch.tensor(list(product(*ranges))).T
    images = numbered(draws.shape[1], channels, height, width)
    assert torch.equal(augmentation._apply(images, draws), slow_batch(images, augmentation, draws))


def test_a_batch_by_hand():
    images = numbered(1, 1, 3, 3)
    draws = torch.tensor([[0], [2], [1], [1], [0]])  # down a row, left a column, mirrored, hole at (1, 0)
    ours = Augmentation(crop=1, flip=True, cutout=1)._apply(images, draws)
    assert ours.tolist() == [[[[5, 6, 5], [0, 3, 2], [5, 6, 5]]]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "augmentation", [AUTHORS, Augmentation(crop=4), Augmentation(flip=True), Augmentation(cutout=6)]
)
def test_type_device_and_order_of_memory_stay(augmentation, order, device):
    for dtype in (torch.float32, torch.bfloat16):
        images = torch.randn(6, 3, 32, 32, dtype=dtype, device=device).contiguous(memory_format=order)
        ours = augmentation(images, batch_rng(0, 1, 2))
        assert (ours.dtype, ours.device, ours.stride()) == (dtype, images.device, images.stride())
        assert torch.equal(ours, slow_batch(images, augmentation, augmentation._draw(6, 32, 32, batch_rng(0, 1, 2))))


@pytest.mark.parametrize(
    "augmentation", [AUTHORS, Augmentation(crop=4), Augmentation(flip=True), Augmentation(cutout=6)]
)
def test_views_of_larger_tensors_and_expanded_images_are_left_alone(augmentation):
    whole = numbered(8, 3, 20, 40)
    views = [whole[1::2, 1:, :, 5:25], whole.transpose(2, 3)[:, :, :20], whole[:1, :, :, :20].expand(4, -1, -1, -1)]
    for images in views:
        before = whole.clone()
        ours = augmentation(images, batch_rng(0, 0, 0))
        draws = augmentation._draw(len(images), 20, 20, batch_rng(0, 0, 0))
        assert torch.equal(ours, slow_batch(images, augmentation, draws))
        assert torch.equal(whole, before)
        ours.zero_()
        assert torch.equal(whole, before)


def test_nothing_of_the_hole_remains_not_even_what_is_no_number():
    images = torch.full((50, 2, 8, 8), float("nan"))
    ours = Augmentation(cutout=3)(images, batch_rng(0, 0, 0))
    assert (ours == 0).sum(dim=(1, 2, 3)).tolist() == [2 * 9] * 50


def test_a_hole_of_the_image_s_size_leaves_nothing():
    assert not Augmentation(cutout=5)(numbered(4, 2, 5, 5), batch_rng(0, 0, 0)).any()


@pytest.mark.parametrize("rows", [(7, 64), (7, 3, 8, 8)])
def test_with_everything_off_the_rows_come_back_whatever_they_are(rows):
    x = torch.randn(rows)
    augmentation = Augmentation()
    augmentation.check(x.shape[1:])
    assert augmentation(x, batch_rng(0, 0, 0)) is x


def test_gradients_reach_the_pixels_that_are_seen():
    images = numbered(1, 1, 4, 4).requires_grad_()
    ours = Augmentation(cutout=2)(images, batch_rng(0, 0, 0))
    ours.sum().backward()
    assert torch.equal(images.grad, (ours != 0).float())


def test_the_same_seed_epoch_and_batch_give_the_same_and_others_give_others():
    images = numbered(16, 1, 28, 28)
    first = AUTHORS(images, batch_rng(3, 5, 7))
    assert torch.equal(first, AUTHORS(images, batch_rng(3, 5, 7)))
    for other in [(4, 5, 7), (3, 6, 7), (3, 5, 8), (5, 3, 7), (3, 7, 5)]:
        assert not torch.equal(first, AUTHORS(images, batch_rng(*other)))


def test_the_global_generators_are_neither_used_nor_moved():
    images = numbered(16, 1, 28, 28)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    first, states = AUTHORS(images, batch_rng(0, 0, 0)), (torch.get_rng_state(), np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(first, AUTHORS(images, batch_rng(0, 0, 0)))


def test_the_draws_of_a_batch_stay_as_they_are_so_that_old_runs_can_be_repeated():
    assert AUTHORS._draw(4, 28, 28, batch_rng(0, 1, 2)).tolist() == [
        [0, 5, 5, 7],
        [5, 8, 4, 2],
        [1, 1, 0, 0],
        [3, 20, 2, 1],
        [22, 22, 4, 8],
    ]


def test_the_first_batch_does_not_share_the_stream_that_orders_the_rows_of_its_epoch():
    order, first = (rng.random(4).tolist() for rng in (np.random.default_rng([3, 5]), batch_rng(3, 5, 0)))
    assert order != first
    assert order == np.random.default_rng([3, 5, 0]).random(4).tolist()  # why a spawn key is needed


@pytest.mark.parametrize("others", [{"crop": 0}, {"flip": False}, {"cutout": 0}])
def test_what_is_switched_off_changes_no_draw_of_the_rest(others):
    rows = {"crop": [2, 3, 4], "flip": [0, 1, 3, 4], "cutout": [0, 1, 2]}[next(iter(others))]
    whole = AUTHORS._draw(100, 28, 28, batch_rng(0, 0, 0))
    part = Augmentation(**{"crop": 4, "flip": True, "cutout": 6, **others})._draw(100, 28, 28, batch_rng(0, 0, 0))
    assert torch.equal(whole[rows], part[rows])
    assert not torch.equal(whole, part)


def expect_uniform(values, choices):
    """Counts within five standard deviations of a uniform draw, and nothing else drawn."""
    counts = np.bincount(values, minlength=choices)
    expected = len(values) / choices
    assert len(counts) == choices
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * (1 - 1 / choices))


def test_windows_flips_and_holes_are_equally_frequent_everywhere_and_independent():
    count, height, width = 90_000, 12, 15
    top, left, mirror, hole_top, hole_left = AUTHORS._draw(count, height, width, batch_rng(0, 0, 0)).numpy()
    expect_uniform(top * 9 + left, 81)
    expect_uniform(mirror, 2)
    expect_uniform(hole_top * 10 + hole_left, 7 * 10)
    expect_uniform((top * 2 + mirror) * 7 + hole_top, 9 * 2 * 7)
    expect_uniform((left * 2 + mirror) * 10 + hole_left, 9 * 2 * 10)


def test_the_pixels_themselves_show_the_expected_frequencies():
    batches = [
        Augmentation(crop=1, flip=True, cutout=2)(numbered(1, 1, 4, 4).expand(1000, -1, -1, -1), rng)
        for rng in (batch_rng(0, 0, batch) for batch in range(20))
    ]
    images = torch.cat(batches)[:, 0]
    assert (images == 0).sum(dim=(1, 2)).unique().tolist() == [4]
    holes = (images == 0).flatten(1).int().argmax(dim=1)  # the first pixel of the hole
    expect_uniform((holes // 4 * 3 + holes % 4).numpy(), 9)
    seen = images[(holes // 4 == 2) & (holes % 4 == 0)]  # a hole at the lower left leaves these to tell the rest:
    corner = seen[:, 1, 2] - 1
    step = seen[:, 1, 3] - seen[:, 1, 2]
    assert step.abs().unique().tolist() == [1]
    expect_uniform((step > 0).long().numpy(), 2)
    expect_uniform((corner // 4).long().numpy(), 3)


def test_batches_of_an_epoch_draw_independently():
    draws = [AUTHORS._draw(50, 28, 28, batch_rng(0, epoch, batch)) for epoch in range(20) for batch in range(20)]
    assert len({tuple(batch.flatten().tolist()) for batch in draws}) == len(draws)
    tops = torch.stack([batch[0] for batch in draws])  # (batches, place in the batch)
    expect_uniform(tops[:, 0].numpy(), 9)
    expect_uniform((tops[:-1] * 9 + tops[1:]).flatten().numpy(), 81)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"crop": -1}, ValueError, "crop must be at least 0, got -1: give pixels, or 0 for no crop"),
        ({"cutout": -3}, ValueError, "cutout must be at least 0, got -3: give pixels, or 0 for no cutout"),
        ({"crop": 2.0}, TypeError, "crop must be a whole number, got 2.0: give pixels, or 0 for no crop"),
        ({"cutout": True}, TypeError, "cutout must be a whole number, got True"),
        ({"cutout": None}, TypeError, "cutout must be a whole number, got None"),
        ({"flip": 1}, TypeError, "flip must be true or false, got 1"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(values, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Augmentation(**values)


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        (
            {"flip": True},
            (64,),
            "crop=0, flip=True, cutout=0 need images (channels, height, width), but a row of the data "
            "has shape (64,): switch all three off (0, false, 0)",
        ),
        (
            {"crop": 8},
            (1, 8, 9),
            "crop=8 is too much for images of 8 x 9 pixels: reflection needs more pixels than it adds; give at most 7",
        ),
        ({"crop": 1}, (1, 5, 1), "crop=1 is too much for images of 5 x 1 pixels"),
        ({"cutout": 9}, (3, 9, 8), "cutout=9 does not fit into images of 9 x 8 pixels: give at most 8"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_the_check_and_by_the_call(values, shape, message):
    augmentation = Augmentation(**values)
    with pytest.raises(ValueError, match=re.escape(message)):
        augmentation.check(shape)
    with pytest.raises(ValueError, match=re.escape(message)):
        augmentation(torch.randn(2, *shape), batch_rng(0, 0, 0))


@pytest.mark.parametrize(("height", "width"), [(8, 9), (9, 8), (1, 1)])
def test_the_largest_values_allowed_are_allowed(height, width):
    side = min(height, width)
    Augmentation(crop=side - 1, cutout=side).check((1, height, width))


def test_pixels_that_are_not_standardised_are_refused():
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.uint8: standardise the pixels first"):
        AUTHORS(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), batch_rng(0, 0, 0))
    with pytest.raises(TypeError, match="floating-point tensor, got ndarray"):
        AUTHORS(np.zeros((2, 1, 28, 28)), batch_rng(0, 0, 0))


@pytest.mark.parametrize("rng", [0, None, torch.Generator(), np.random.RandomState(0)])
def test_another_kind_of_generator_is_refused(rng):
    with pytest.raises(TypeError, match=r"numpy\.random\.Generator, got .*: use batch_rng\(seed, epoch, batch\)"):
        AUTHORS(numbered(2, 1, 28, 28), rng)


@pytest.mark.parametrize(("place", "name"), [((-1, 0, 0), "seed"), ((0, -1, 0), "epoch"), ((0, 0, -1), "batch")])
def test_a_negative_place_in_training_is_refused(place, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        batch_rng(*place)
