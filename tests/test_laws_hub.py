"""Laws on the Hub: identical predictions, a card with formula, intervals and range, no code executed."""

import json
import re

import numpy as np
import pytest
from designs import fit, study
from hub_commands import command, last_line, run

pytestmark = pytest.mark.hub
AT = {"n_params": [1e7, 1e9, 3e12], "n_pretrain": [1e8, 1e10, 1e6]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved law, and its fit."""
    law_fit = fit("chinchilla", study("chinchilla", 0.02), bootstrap=50)
    folder = tmp_path_factory.mktemp("law")
    law_fit.save_pretrained(folder)
    return folder, law_fit


PREDICT = f"""
import json, sys
import hf_scaling as hs
law = hs.LawFit.from_pretrained(*sys.argv[1:])
print(json.dumps([law.predict({AT!r}, kind=kind).to_numpy().tolist() for kind in ("mean", "new_run")]))
"""


def test_a_downloaded_law_predicts_identically_by_branch_tag_and_commit(hub, tmp_path, saved):
    folder, law_fit = saved
    status, out, err = command(hub, tmp_path, "push", folder, "--repo", "someone/law")
    assert (status, "someone/law" in out) == (0, True), err
    repo = hub.repo("models", "someone/law")
    repo.tags["v1"] = repo.head
    expected = [law_fit.predict(AT, kind=kind).to_numpy() for kind in ("mean", "new_run")]
    for where in (["someone/law"], ["someone/law@v1"], ["someone/law", repo.head.id]):
        np.testing.assert_array_equal(json.loads(run(hub, tmp_path, PREDICT, *where)), expected)
    head = repo.head.id
    status, _, err = command(hub, tmp_path, "push", folder, "--repo", "someone/law")
    assert (status, repo.head.id) == (0, head), err
    assert sorted(repo.files) == [".gitattributes", "README.md", "draws.safetensors", "figure.png", "law.json"]


def test_the_card_has_formula_intervals_range_notes_and_a_working_example(hub, tmp_path, saved):
    folder, _ = saved
    run(hub, tmp_path, "import sys, hf_scaling as hs; hs.LawFit.from_pretrained(sys.argv[1]).push_to_hub('someone/carded-law')", folder)  # fmt: skip # noqa: E501
    files = hub.repo("models", "someone/carded-law").files
    card = files["README.md"].decode()
    for entry in (
        "E + A*n_params",
        "$$",
        "95 % from",
        "n_params from 3M",
        "Status: ok",
        "## Notes",
        "log_huber",
        'from_pretrained("someone/carded-law")',
        "](figure.png)",
        "@article",
    ):
        assert entry in card
    assert files["figure.png"].startswith(b"\x89PNG")
    printed = run(hub, tmp_path, re.search(r"```python\n(.*?)```", card, re.S)[1])
    assert "extrapolation" in printed
    check = """
    from huggingface_hub import HfApi, ModelCard
    ModelCard.load("someone/carded-law").validate()
    info = HfApi().model_info("someone/carded-law")
    print(info.library_name, info.pipeline_tag, info.card_data.license)
    """
    assert run(hub, tmp_path, check).split() == ["hf_scaling", "tabular-regression", "apache-2.0"]


def test_edits_to_the_card_are_kept_when_a_law_is_pushed_again(hub, tmp_path, saved):
    folder, _ = saved
    command(hub, tmp_path, "push", folder, "--repo", "someone/edited-law")
    readme = hub.repo("models", "someone/edited-law").files["README.md"].decode()
    hub.add("models", "someone/edited-law", {"README.md": f"{readme}\nMind the glyphs.\n".encode(), "law.json": b"{}"})
    status, _, err = command(hub, tmp_path, "push", folder, "--repo", "someone/edited-law")
    assert status == 0, err
    files = hub.repo("models", "someone/edited-law").files
    assert "Mind the glyphs." in files["README.md"].decode()
    assert files["law.json"] == (folder / "law.json").read_bytes()


def test_a_hostile_or_missing_law_is_refused(hub, tmp_path, saved):
    folder, _ = saved
    content = {name: (folder / name).read_bytes() for name in ("law.json", "draws.safetensors")}
    law = json.loads(content["law.json"])
    law["definition"]["expression"] = "__import__('os').system('touch gotcha')"
    hub.add("models", "someone/hostile-law", content | {"law.json": json.dumps(law).encode()})
    hub.add("models", "someone/no-law", {"config.json": b"{}"})
    refused = """
    import sys
    import hf_scaling as hs
    for name in sys.argv[1:]:
        try:
            hs.LawFit.from_pretrained(name)
        except hs.InputError as error:
            print(error)
    """
    names = ("someone/hostile-law", "someone/no-law", "someone/absent-law")
    lines = run(hub, tmp_path, refused, *names).splitlines()
    assert len(lines) == len(names)
    for line, named in zip(lines, ("chinchilla", *names[1:])):
        assert named in line
    assert not (tmp_path / "gotcha").exists()
    status, _, err = command(hub, tmp_path, "push", folder, "--repo", "someone/no-law")
    assert (status, "someone/no-law" in last_line(err)) == (2, True)


def test_dry_run_private_law_and_offline_hub(hub, tmp_path, saved):
    folder, _ = saved
    status, out, err = command(hub, tmp_path, "push", folder, "--repo", "someone/secret-law", "--dry-run", "--private")
    assert (status, "law.json" in out, "private" in out) == (0, True, True), err
    assert ("models", "someone/secret-law") not in hub.storage.repos
    command(hub, tmp_path, "push", folder, "--repo", "someone/secret-law", "--private")
    assert hub.repo("models", "someone/secret-law").private
    status, _, err = command(hub, tmp_path, "push", folder, "--repo", "someone/far-law", HF_HUB_OFFLINE="1")
    assert (status, "offline" in last_line(err).lower()) == (1, True)
    status, _, err = command(hub, tmp_path, "push", folder, "--repo", "someone/law", "--config", "x")
    assert (status, "--config" in last_line(err)) == (2, True)
