"""A stored fit: equal to the last bit, readable by later versions, and nothing in it is trusted."""

import json
from pathlib import Path

import numpy as np
import pytest
from designs import fit, grid, study

import hf_scaling as hs
from hf_scaling import InputError

KEPT = Path(__file__).parent / "data" / "law_v1"
AT = {"n_params": [1e7, 1e9, 3e12], "n_pretrain": [1e8, 1e10, 1e6]}


@pytest.fixture(scope="module")
def noisy():
    return fit("chinchilla", study("chinchilla", 0.02), bootstrap=50)


@pytest.fixture
def folder(noisy, tmp_path):
    noisy.save_pretrained(tmp_path / "law")
    return tmp_path / "law"


def rewritten(folder, change):
    content = json.loads((folder / "law.json").read_text())
    change(content)
    (folder / "law.json").write_text(json.dumps(content))
    return folder


def same(first, second, at):
    for kind in ("mean", "new_run"):
        np.testing.assert_array_equal(
            first.predict(at, kind=kind).to_numpy(), second.predict(at, kind=kind).to_numpy()
        )
    for name in ("law", "status", "params", "intervals", "scores", "notes", "weights"):
        assert getattr(first, name) == getattr(second, name)
    assert first.summary() == second.summary()


def test_a_loaded_fit_equals_the_saved_one(noisy, folder):
    same(noisy, hs.LawFit.from_pretrained(folder), AT)


def test_saving_twice_gives_the_same_bytes(noisy, folder, tmp_path):
    hs.LawFit.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("law.json", "draws.safetensors", "README.md"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_law_json_is_strict_and_plain(folder):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((folder / "law.json").read_text(), parse_constant=refuse)
    assert content["version"] == 1
    assert content["law"] == "chinchilla"


def test_a_mixture_and_infinite_numbers_are_restored(tmp_path):
    x = np.geomspace(100, 1e6, 12)
    mixture = hs.fit_law(
        {"n_pretrain": x, "loss": 0.3 + 20 * (x + 2000) ** -0.5 + 0.001 * np.sin(x)}, "auto", bootstrap=20
    )
    assert mixture.law == "mixture"
    exact = fit("power_law", study("power_law", 0.05, points=3), bootstrap=10)
    assert np.isnan(exact.intervals["E"][0])
    for name, result in (("mixture", mixture), ("exact", exact)):
        result.save_pretrained(tmp_path / name)
        again = hs.LawFit.from_pretrained(tmp_path / name)
        at = {"n_pretrain": [1e3, 1e9]}
        np.testing.assert_array_equal(result.predict(at).to_numpy(), again.predict(at).to_numpy())
        assert repr(again.intervals) == repr(result.intervals)
        assert repr(again.scores) == repr(result.scores)


def test_a_distillation_fit_is_stored_with_its_supervised_part(tmp_path):
    result = fit("distillation", study("distillation"))
    result.save_pretrained(tmp_path)
    at = {name: values[:5] for name, values in grid("distillation").items()}
    np.testing.assert_array_equal(hs.LawFit.from_pretrained(tmp_path).values(at), result.values(at))


def test_the_card_states_status_range_and_use(folder):
    card = (folder / "README.md").read_text()
    for words in (
        "library_name: hf_scaling",
        "ok",
        "$$",
        "from_pretrained",
        "3M",
        "log_huber",
    ):
        assert words in card


def test_a_file_of_the_first_version_stays_readable():
    result = hs.LawFit.from_pretrained(KEPT)
    expected = json.loads((KEPT / "expected.json").read_text())
    assert result.law == expected["law"]
    assert result.status == expected["status"]
    assert result.params == expected["params"]
    table = result.predict(expected["at"])
    # Another machine's exp and log may differ in the last place.
    for column in ("value", "low", "high"):
        assert table[column].tolist() == pytest.approx(expected[column], rel=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(version=2), "version 2"),
        (lambda c: c.update(version="1"), "version"),
        (lambda c: c.update(format="pickle"), "format"),
        (lambda c: c.pop("params"), "params"),
        (lambda c: c.update(params={"E": "a lot"}), r"law\.json"),
        (lambda c: c.update(params=[1, 2]), r"law\.json"),
        (lambda c: c.update(members=[7]), r"law\.json"),
        (lambda c: c["definition"].update(expression="__import__('os').system('true')"), "chinchilla"),
        (lambda c: c["definition"].update(expression="E + A*n_params.real"), "chinchilla"),
        (lambda c: c["definition"].update(expression="E" + "+A*n_params" * 5000), "chinchilla"),
        (lambda c: c["definition"].update(expression="E + A*n_params**-alpha"), "not in the formula|parameters"),
        (lambda c: c["definition"].update(code="1"), "code"),
    ],
)
def test_a_file_that_is_not_a_law_is_refused(folder, change, words):
    with pytest.raises(InputError, match=words):
        hs.LawFit.from_pretrained(rewritten(folder, change))


def test_damaged_or_absent_files_are_refused(folder, tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(InputError, match="nowhere"):
        hs.LawFit.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"law\.json"):
        hs.LawFit.from_pretrained(tmp_path / "empty")
    draws = folder / "draws.safetensors"
    save_file({"draws": np.zeros((5, 3)), "noise": np.zeros(5)}, draws)
    with pytest.raises(InputError, match=r"draws\.safetensors"):
        hs.LawFit.from_pretrained(folder)
    save_file({"noise": np.zeros(5)}, draws)
    with pytest.raises(InputError, match="draws"):
        hs.LawFit.from_pretrained(folder)
    draws.write_bytes(b"not a tensor")
    with pytest.raises(InputError, match=r"draws\.safetensors"):
        hs.LawFit.from_pretrained(folder)
    draws.unlink()
    with pytest.raises(InputError, match=r"draws\.safetensors"):
        hs.LawFit.from_pretrained(folder)
    for text in ("{", "[1]", "[" * 100_000):
        (folder / "law.json").write_text(text)
        with pytest.raises(InputError, match=r"law\.json"):
            hs.LawFit.from_pretrained(folder)
    (folder / "law.json").write_text('{"format": "' + "x" * 5_000_000 + '"}')
    with pytest.raises(InputError, match=r"law\.json"):
        hs.LawFit.from_pretrained(folder)
