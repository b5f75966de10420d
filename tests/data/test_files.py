import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ltcli.compute.seeds import derive
from ltcli.core.errors import DataError, ResourceError
from ltcli.data import files
from ltcli.data.batches import Augmentation, Batch
from ltcli.data.decode import decode_image
from ltcli.data.files import FileBatches, ImageFiles
from ltcli.models import small_images

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIDE = 16
BACKBONE = small_images.backbone("resnet20", image_size=(SIDE, SIDE), in_files=True)
# Not their order: rows are positions, and must not be taken for numbers in names.
NAMES = tuple(f"{(7 * i) % 12}.png" for i in range(12))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def batches_of(root, workers=0, **options):
    sizes = [(root / name).stat().st_size for name in NAMES]
    augmentation = Augmentation(**{"least_area": 0.3, "jitter": 0.4, "seed": 5, **options})
    return FileBatches(
        ImageFiles(root, NAMES, sizes, BACKBONE, augmentation), MEAN, STD, CPU, workers
    )


def order(epoch):
    return torch.randperm(12, generator=torch.Generator().manual_seed(epoch))


def normalised(image):
    """uint8 [3, H, W] to what a network sees."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (image.float() / 255 - mean) / std


def naive(root, row, seed):
    """One augmented image, by torchvision on a stream of its own."""
    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(SIDE, scale=(0.3, 1)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
        ]
    )
    torch.manual_seed(seed)
    return normalised(transform(Image.open(root / NAMES[row])))


def drawn(batches, rows, epoch=0, first=0, stream="augment"):
    return batches.drawn(Batch(epoch, 0, first, rows, stream))


def test_images_as_they_are_come_in_order_with_their_centres(root):
    expected = [
        normalised(decode_image((root / name).read_bytes(), SIDE, 0.875).permute(2, 0, 1))
        for name in NAMES
    ]
    for workers, size in ((0, 5), (2, 5), (0, 100)):
        made = torch.cat(list(batches_of(root, workers).in_order(slice(0, 12), size)))
        torch.testing.assert_close(made, torch.stack(expected), rtol=0, atol=1e-5)
        assert made.is_contiguous(memory_format=torch.channels_last)


def test_no_files_are_one_empty_batch(root):
    empty = FileBatches(ImageFiles(root, (), (), BACKBONE, Augmentation()), MEAN, STD, CPU, 2)
    assert [batch.shape for batch in empty.in_order(slice(0, 0), 4)] == [(0, 3, SIDE, SIDE)]


def test_an_image_depends_on_seed_epoch_and_position_alone(root):
    rows = order(3)
    expected = [naive(root, row, derive("augment", 5, 3, i)) for i, row in enumerate(rows.tolist())]
    before = torch.get_rng_state()
    for workers in (0, 1, 2):
        batches = batches_of(root, workers)
        batches.read_ahead(order, 5)
        made = [drawn(batches, rows[i : i + 5], 3, i) for i in (0, 5, 10)]
        torch.testing.assert_close(torch.cat(made), torch.stack(expected), rtol=0, atol=1e-5)
    assert torch.get_rng_state().equal(before)


def test_without_jitter_flip_and_small_areas_an_image_keeps_its_colours(root):
    batches = batches_of(root, jitter=0.0, flip=False, least_area=1.0)
    made = drawn(batches, torch.tensor([4]))
    assert made.equal(drawn(batches, torch.tensor([4]), epoch=1))
    assert not made.equal(drawn(batches_of(root, jitter=0.0, flip=False), torch.tensor([4])))


def test_what_was_not_announced_is_drawn_all_the_same(root):
    plain, ahead = batches_of(root), batches_of(root)
    ahead.read_ahead(order, 4)
    rows, others = order(0), torch.tensor([11, 11, 0])
    for first in (0, 4, 8):
        part = rows[first : first + 4]
        assert drawn(ahead, part, 0, first).equal(drawn(plain, part, 0, first))
        # A second batch beside each, one at the same place; and the first one once more.
        for place in (first, 12 + first):
            second = drawn(ahead, others, 0, place, "augment second")
            assert second.equal(drawn(plain, others, 0, place, "augment second"))
        assert drawn(ahead, part, 0, first).equal(drawn(plain, part, 0, first))


def test_streams_of_other_names_draw_other_images_at_the_same_place(root):
    rows = order(3)[:5]
    for ahead in (False, True):
        batches = batches_of(root)
        if ahead:
            batches.read_ahead(order, 5)
        made = {}
        for stream in ("augment", "augment second", "augment meta"):
            seeds = [derive(stream, 5, 3, i) for i in range(5)]
            expected = [naive(root, *item) for item in zip(rows.tolist(), seeds, strict=True)]
            made[stream] = drawn(batches, rows, 3, 0, stream)
            torch.testing.assert_close(made[stream], torch.stack(expected), rtol=0, atol=1e-5)
        for other in ("augment second", "augment meta"):
            assert not any(a.equal(b) for a, b in zip(made["augment"], made[other], strict=True))


def test_batches_of_the_order_are_known_by_their_place_and_no_rows_are_copied(root):
    # Rows without values: whoever looked at them, or copied them from a device, would fail.
    nowhere = torch.empty(4, dtype=torch.int64, device="meta")
    plain, ahead = batches_of(root), batches_of(root)
    ahead.read_ahead(order, 4)
    for epoch in (0, 1):
        for first in (0, 4, 8):
            expected = drawn(plain, order(epoch)[first : first + 4], epoch, first)
            assert drawn(ahead, nowhere, epoch, first).equal(expected)
    with pytest.raises(NotImplementedError, match="meta"):
        drawn(ahead, nowhere, 1, 8, "augment second")


def test_a_run_that_goes_on_begins_in_the_middle_and_reads_no_image_twice(root, monkeypatch):
    batches, read = batches_of(root), []
    content = files.read_file
    monkeypatch.setattr(files, "read_file", lambda path: read.append(path.name) or content(path))
    batches.read_ahead(order, 4)
    for epoch, starts in ((2, (4, 8)), (3, (0, 4, 8))):
        for first in starts:
            drawn(batches, order(epoch)[first : first + 4], epoch, first)
    expected = [*order(2)[4:].tolist(), *order(3).tolist()]
    assert read == [NAMES[row] for row in expected]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_may_be_left_out_or_come_again(root, workers):
    plain, ahead = batches_of(root), batches_of(root, workers)
    ahead.read_ahead(order, 2)
    # The last batch of an epoch ends the worker.
    for first in (0, 6, 8, 2, 4, 10):
        part = order(1)[first : first + 2]
        assert drawn(ahead, part, 1, first).equal(drawn(plain, part, 1, first))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_named(root, tmp_path, workers):
    for name in NAMES:
        (tmp_path / name).write_bytes((root / name).read_bytes())
    batches = batches_of(tmp_path, workers)
    size = (tmp_path / NAMES[6]).stat().st_size
    (tmp_path / NAMES[6]).write_bytes(b"x" * size)
    path = tmp_path / NAMES[6]
    for use in (
        lambda: list(batches.in_order(slice(0, 12), 5)),
        lambda: drawn(batches, torch.tensor([1, 6])),
    ):
        with pytest.raises(DataError) as caught:
            use()
        assert str(caught.value) == f"{path}: is no image of a known format"
    path.write_bytes(b"shorter")
    with pytest.raises(DataError) as caught:
        drawn(batches, torch.tensor([6]))
    rule = f"must have {size} bytes as in the split, got 7"
    assert str(caught.value) == f"{path}: {rule}"
    path.unlink()
    with pytest.raises(DataError, match="cannot be read: no such file or directory"):
        drawn(batches, torch.tensor([6]))


def test_a_worker_that_is_killed_ends_the_run_with_a_remedy(root, monkeypatch):
    monkeypatch.setattr(
        ImageFiles, "__getitem__", lambda _self, _item: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(ResourceError) as caught:
        list(batches_of(root, 1).in_order(slice(0, 12), 5))
    assert str(caught.value).startswith("loading: a process that decodes images died: DataLoader")
    assert caught.value.hint == "if memory ran out, lower --workers; the same command again goes on"


def test_too_little_shared_memory_ends_the_run_at_once(root, monkeypatch):
    def refuse(_images):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device"
        )

    # Workers are forked, and have this too.
    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    children = set(multiprocessing.active_children())
    with pytest.raises(ResourceError) as caught:
        list(batches_of(root, 2).in_order(slice(0, 12), 5))
    rule = "shared memory is full: processes that decode images pass them on through it"
    assert str(caught.value) == f"/dev/shm: {rule}"
    hint = "give a container more (docker run --shm-size 2g), or decode in one process: --workers 0"
    assert caught.value.hint == hint
    assert set(multiprocessing.active_children()) <= children
    # One process needs none.
    assert sum(map(len, batches_of(root, 0).in_order(slice(0, 12), 5))) == 12


def test_no_worker_is_waited_for_without_end(root, monkeypatch):
    monkeypatch.setattr("ltcli.data.files._LONGEST", 0.2)
    monkeypatch.setattr(ImageFiles, "__getitem__", lambda _self, _item: time.sleep(0.3))
    with pytest.raises(ResourceError) as caught:
        list(batches_of(root, 1).in_order(slice(0, 12), 5))
    rule = "a process that decodes images took over 0 s for a batch"
    assert str(caught.value) == f"loading: {rule}"


def test_images_larger_than_the_split_took_are_bad(root):
    sizes = [(root / name).stat().st_size for name in NAMES]
    files = ImageFiles(root, NAMES, sizes, BACKBONE, Augmentation(), 99)
    for seed in (None, 7):
        with pytest.raises(DataError, match=r": has more than 99 pixels \(--max-pixels\)$"):
            files.images([(0, seed)])


def test_a_long_pass_says_how_far_it_is(root, monkeypatch, caplog):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    caplog.set_level("INFO")
    list(batches_of(root).in_order(slice(0, 12), 5))
    assert caplog.messages == ["10 of 12 images, 1 images/s"]


def test_networks_with_an_image_size_of_their_own_get_it_by_their_own_filter(root):
    size, how = (24, 18), {"interpolation": "bicubic", "crop_mode": "center"}
    record = replace(BACKBONE, image_size=size, **how)
    sizes = [(root / name).stat().st_size for name in NAMES]
    made = ImageFiles(root, NAMES, sizes, record, Augmentation(least_area=0.3, flip=False))
    crop = v2.RandomResizedCrop(size, (0.3, 1), interpolation=v2.InterpolationMode.BICUBIC)
    for row in (0, 5):
        torch.manual_seed(7)
        expected = crop(v2.functional.pil_to_tensor(Image.open(root / NAMES[row])))
        assert made[row, 7].equal(expected)
        assert made[row, None].shape == (3, *size)
    assert made.none().shape == (0, 3, *size)


def test_rows_known_on_the_cpu_are_not_copied_back(root):
    rows = torch.tensor([3, 0, 7])
    # A tensor of the meta device has no numbers that could be copied.
    batch = Batch(0, 0, 0, rows.to("meta"), "augment meta", rows)
    made = batches_of(root, 0).drawn(batch)
    assert made.equal(drawn(batches_of(root, 0), rows, stream="augment meta"))
