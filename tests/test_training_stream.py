"""The stream of training images, their augmentation, and the metrics."""

from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import torch

from hf_scaling.errors import InputError
from hf_scaling.models import ImageStatistics
from hf_scaling.tasks import base
from hf_scaling.tasks.augmentation import AUGMENTATIONS, augment
from hf_scaling.tasks.metrics import CrossEntropy, TopOneError
from hf_scaling.tasks.streams import ImageSet, ImageStream

STATISTICS = ImageStatistics((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))


class Numbered:
    """Image i is grey of level i."""

    labels = np.arange(200) % 10

    def images(self, indices):
        return np.broadcast_to(np.asarray(indices, np.uint8)[:, None, None, None], (len(indices), 8, 8, 3)).copy()


def stream(n=50, length=300, seed=0, augmentation=()):
    return ImageStream(Numbered(), np.arange(100, 100 + n), STATISTICS, length, seed, augmentation)


def images_of(batch):
    pixels = batch["pixel_values"] * torch.tensor(STATISTICS.std)[:, None, None]
    return ((pixels + torch.tensor(STATISTICS.mean)[:, None, None]) * 255).round().long()


def test_every_epoch_holds_each_image_once_in_another_order():
    order = images_of(stream().__getitems__(range(300)))[:, 0, 0, 0].reshape(6, 50)
    for epoch in order:
        assert sorted(epoch.tolist()) == list(range(100, 150))
    assert len({tuple(epoch.tolist()) for epoch in order}) == 6


def test_labels_match_their_images_and_pixels_are_normalised():
    batch = stream().__getitems__([3, 77])
    levels = images_of(batch)
    assert (levels == levels[:, :1, :1, :1]).all()
    assert batch["labels"].tolist() == (levels[:, 0, 0, 0] % 10).tolist()
    assert batch["pixel_values"].dtype == torch.float32


def test_a_position_gives_the_same_example_in_any_batch():
    names = list(AUGMENTATIONS)
    whole = stream(augmentation=names).__getitems__(range(300))
    fresh = stream(augmentation=names)
    for positions in ([299], [0, 120], list(range(90, 110))):
        part = fresh.__getitems__(positions)
        assert torch.equal(part["pixel_values"], whole["pixel_values"][positions])
        assert torch.equal(part["labels"], whole["labels"][positions])
    assert torch.equal(fresh[7]["pixel_values"], whole["pixel_values"][7])


def test_another_seed_is_another_order():
    one, two = (stream(seed=seed).__getitems__(range(50))["labels"] for seed in (0, 1))
    assert not torch.equal(one, two)


def test_a_set_is_read_in_its_order():
    batch = ImageSet(Numbered(), np.array([5, 3]), STATISTICS).__getitems__([1, 0])
    assert images_of(batch)[:, 0, 0, 0].tolist() == [3, 5]


@pytest.fixture
def images():
    return torch.randint(0, 256, (400, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_an_augmentation_keeps_shape_and_type_and_changes_something(name, images):
    before = images.clone()
    changed = augment(images, [name], 0, np.arange(400))
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert torch.equal(images, before)
    assert not torch.equal(changed, images)
    # Another seed and other positions are other draws.
    assert not torch.equal(changed, augment(images, [name], 1, np.arange(400)))
    assert not torch.equal(changed, augment(images, [name], 0, np.arange(400, 800)))


def test_flip_mirrors_half_of_the_images(images):
    flipped = augment(images, ["flip"], 0, np.arange(400))
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    kept = (flipped == images).all(dim=(1, 2, 3))
    assert (mirrored | kept).all()
    # Four standard deviations of a fair coin thrown 400 times are 40.
    assert 160 < mirrored.sum() < 240


def test_shift_moves_by_at_most_an_eighth(images):
    shifted = augment(images, ["shift"], 0, np.arange(400))
    moves = set()
    for image, moved in zip(images[:100], shifted[:100]):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(moved, padded[:, y : y + 16, x : x + 16])]
        assert len(places) == 1
        moves.add(places[0])
    assert len(moves) > 20


def test_resized_crop_of_a_ramp_is_a_ramp():
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(1, 3, 64, 64)
    row = augment(ramp, ["resized_crop"], 0, np.arange(1))[0, 0, 0].int()
    assert (row.diff() >= 0).all()
    assert row[-1] - row[0] < 252


def test_erase_gives_half_of_the_images_a_rectangle_of_noise():
    black = torch.zeros((400, 3, 28, 28), dtype=torch.uint8)
    erased = augment(black, ["erase"], 0, np.arange(400))
    touched = (erased > 0).flatten(1).any(dim=1)
    assert 160 < touched.sum() < 240
    assert torch.equal(erased[:, 0], erased[:, 2])
    for image in erased[touched, 0]:
        for lines in (image.any(dim=0), image.any(dim=1)):
            places = lines.nonzero()[:, 0]
            # 4 to 12 of 28 pixels; noise is black in one pixel of 256, so an edge may not be seen.
            assert 3 <= places[-1] - places[0] + 1 <= 12
    noise = erased[erased > 0].double()
    assert noise.mean() == pytest.approx(128, abs=2)


@pytest.mark.parametrize("names", [["spin"], ["flip", "flip"]])
def test_unknown_and_repeated_names_are_refused(names):
    with pytest.raises(InputError, match="augmentation"):
        stream(augmentation=names)


def test_metrics_are_the_textbook_ones():
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(500, 7, generator=generator)
    labels = torch.randint(0, 7, (500,), generator=generator)
    # Both sum 500 terms of size 1 to 100 in float64.
    expected = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    loss = base.cross_entropy(logits.numpy(), labels.numpy())
    assert loss == pytest.approx(expected, rel=1e-13)
    error = base.top_one_error(logits.numpy(), labels.numpy())
    assert error == (logits.argmax(1) != labels).double().mean().item()
    metrics = evaluate.combine([TopOneError(keep_in_memory=True), CrossEntropy(keep_in_memory=True)])
    assert metrics.compute(predictions=logits.numpy(), references=labels.numpy()) == {"error": error, "loss": loss}


def test_evaluation_does_not_depend_on_the_batch(monkeypatch):
    from hf_scaling.tasks import ImageClassification

    weights = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, pixel_values):
            return SimpleNamespace(logits=pixel_values.double().mean(dim=(2, 3)) @ weights.double())

    class Split(Numbered):
        def __len__(self):
            return 200

    def processor(images, return_tensors):
        return {"pixel_values": images / 255}

    measurements = {ImageClassification().evaluate(Model(), processor, Split(), size) for size in (1, 7, 200, 1000)}
    assert len(measurements) == 1
    assert measurements.pop().n_eval == 200
