"""The embedded sources: glyphs depend on the seed and their number alone; digits are the scans themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from hf_scaling import data
from hf_scaling.data import glyphs
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def open_quietly(name, cache, **options):
    return data.open_source(name, cache_dir=cache, progress=False, **options)


def test_an_image_does_not_depend_on_the_others_drawn():
    together = glyphs.draw(np.arange(100), 28, seed=3)
    assert np.array_equal(together[[41, 7]], glyphs.draw(np.array([41, 7]), 28, seed=3))


def test_seeds_streams_and_numbers_all_give_other_images():
    drawn = [glyphs.draw(np.arange(72), 28, *rest) for rest in ((0,), (1,), (0, "test"))]
    images = np.concatenate(drawn).reshape(-1, 28 * 28)
    assert len(np.unique(images, axis=0)) == len(images)


def test_a_longer_source_begins_with_the_shorter_one(cache):
    short, long = (open_quietly("glyphs", cache, n_images=n) for n in (150, 400))
    assert np.array_equal(short.train.images(np.arange(150)), long.train.images(np.arange(150)))
    assert np.array_equal(short.train.labels, long.train.labels[:150])
    assert short.fingerprint != long.fingerprint


def test_the_test_images_are_fixed_and_not_training_images(cache):
    first, second = (open_quietly("glyphs", cache, n_images=360, seed=seed) for seed in (0, 1))
    everything = np.arange(2_000)
    assert len(first.test) == 2_000
    assert np.array_equal(first.test.images(everything), second.test.images(everything))
    assert data.count_overlap(first.train, second.train) == 0
    assert data.count_overlap(first.train, first.test) == 0
    assert first.fingerprint != second.fingerprint


def test_classes_alternate_and_can_be_selected(cache):
    full = open_quietly("glyphs", cache, n_images=360)
    assert full.class_names == list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert (np.bincount(full.train.labels) == 10).all()
    some = open_quietly("glyphs", cache, n_images=100, classes=5)
    assert len(some.class_names) == 5 and (np.bincount(some.train.labels) == 20).all()
    # The images of the selected classes are those that the full source has of them, in order.
    of_class = np.flatnonzero(full.train.labels == full.class_names.index(some.class_names[2]))
    assert np.array_equal(some.train.images(np.arange(2, 50, 5)), full.train.images(of_class[:10]))


@pytest.mark.parametrize("image_size", [8, 16, 28, 48])
def test_any_size_is_drawn_with_contrast(image_size):
    drawn = glyphs.draw(np.arange(72), image_size, seed=0)
    assert drawn.shape == (72, image_size, image_size) and drawn.dtype == np.uint8
    assert drawn.std(axis=(1, 2)).mean() > 20


def nearest_neighbour_error(source, n: int) -> float:
    subset = data.nested_subset(source.train.labels, n, seed=0)
    train, test = (
        part.images(at)[..., 0].reshape(len(at), -1) / 255.0
        for part, at in ((source.train, subset), (source.test, np.arange(len(source.test))))
    )
    train, test = ((rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True) for rows in (train, test))
    model = KNeighborsClassifier(1, algorithm="brute").fit(train, source.train.labels[subset])
    return 1 - model.score(test, source.test.labels)


def test_more_data_keeps_helping(cache):
    source = open_quietly("glyphs", cache, n_images=8_000)
    errors = [nearest_neighbour_error(source, n) for n in (250, 1_400, 8_000)]
    # Binomial standard deviation on 2,000 images: .011; each step must be three of them.
    assert (np.diff(errors) < -0.03).all(), errors
    assert errors[0] < 0.95 and errors[-1] > 0.05  # neither noise nor solved


def test_digits_are_the_scans_with_a_fixed_balanced_test_part(cache):
    source = open_quietly("digits", cache, image_size=8)
    assert (len(source.train), len(source.test)) == (1_297, 500)
    assert (np.bincount(source.test.labels) == 50).all()
    from sklearn.datasets import load_digits

    scans = {np.rint(scan * (255 / 16)).astype(np.uint8).tobytes() for scan in load_digits().images}
    both = np.concatenate([part.images(np.arange(len(part))) for part in (source.train, source.test)])
    assert (both == both[..., :1]).all()
    assert {image[..., 0].tobytes() for image in both} == scans


def test_digits_can_be_enlarged_and_learned(cache):
    source = open_quietly("digits", cache, image_size=28)
    assert source.train.images([0]).shape == (1, 28, 28, 3)
    assert nearest_neighbour_error(source, 1_000) < 0.05


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("glyphs", {"n_images": 0}, "n_images: 0"),
        ("digits", {"n_images": 10}, "n_images"),
        ("digits", {"image_size": 0}, "image_size"),
        ("digit", {}, "digits"),
    ],
)
def test_bad_options_are_refused(name, options, named, cache):
    with pytest.raises(InputError, match=named):
        open_quietly(name, cache, **options)


def test_the_run_ids_of_the_first_demo_do_not_change(plans_here):
    fingerprints = {name: data.open_source(name).fingerprint for name in ("glyphs", "digits")}
    assert fingerprints == {"glyphs": "deb1ede92e7ddb02", "digits": "0d4528d319aa647b"}
    kept = Path(__file__).parent / "data"
    stored = json.loads((kept / "demo_first_run_ids.json").read_text())
    assert [run.run_id for run in Grid.load(kept / "demo_first.yaml").plan(guess=True)] == stored
