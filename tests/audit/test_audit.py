"""The audit from end to end, on planted and on real data."""

import json

import numpy as np
import pytest
import torch

from memdiff.audit import audit
from memdiff.data import Dataset, load
from memdiff.generation import GenerationSettings, generate


def normal(num, dim=16, seed=0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def digits(seed=0):
    """(train, held-out), halves of the digits in random order."""
    data = load("digits")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.subset(order[:800]), data.subset(order[800:1600]), data.subset(order[1600:])


def test_plain_empirical_score_memorises_digits():
    """The positive control on real images: near 100 %, and the right training images."""
    train, heldout, _ = digits()
    samples = generate(train, GenerationSettings(num=60)).x
    result = audit(generated=samples, train=train, heldout=heldout)
    assert result.verdict == "memorizing"
    assert result.decision.copied > 0.95
    nearest = torch.cdist(samples.flatten(1), train.x.flatten(1)).argmin(1)
    assert all(pair.train == nearest[pair.sample] for pair in result.pairs)


def test_heldout_digits_are_no_copies():
    train, heldout, rest = digits()
    result = audit(generated=rest, train=train, heldout=heldout)
    assert result.verdict in ("not detected", "inconclusive")
    assert result.decision.p_value > 0.05


def test_mirrored_copies_are_found_with_the_invariance_only():
    train, heldout, rest = digits()
    x = rest.x.clone()
    x[:10] = train.x[40:50].flip(-1)
    plain = audit(generated=x, train=train, heldout=heldout)
    seen = audit(generated=x, train=train, heldout=heldout, invariance="flip")
    assert plain.verdict != "memorizing"
    assert seen.verdict == "memorizing"
    flagged = {pair.sample for pair in seen.pairs if pair.flagged}
    assert flagged >= set(range(10))
    assert all(pair.variant == "flip" for pair in seen.pairs if pair.sample < 10)


def test_the_features_that_saw_the_copies_are_named():
    """Two descriptors: the level is shared, and the one that decides is said."""
    train, heldout = normal(200), normal(200, seed=1)
    samples = normal(200, seed=2)
    samples[:20] = train[:20]
    result = audit(generated=samples, train=train, heldout=heldout, features=["pixels", "pca:2"])
    assert result.verdict == "memorizing" and len(result.evidence) == 2
    best = min(result.evidence, key=lambda entry: entry.test.p_value)
    assert result.decision.descriptor == best.name
    assert result.decision.p_value == pytest.approx(min(1, 2 * best.test.p_value))


def test_arrays_paths_and_data_sets_give_one_result(tmp_path):
    sets = {
        name: normal(80, seed=seed).numpy()
        for seed, name in enumerate(("generated", "train", "heldout"))
    }
    for name, values in sets.items():
        np.save(tmp_path / f"{name}.npy", values)
    from_arrays = audit(**sets).to_dict()
    from_paths = audit(**{name: tmp_path / f"{name}.npy" for name in sets}).to_dict()
    for key in ("verdict", "decision", "pairs", "evidence", "duplicates"):
        assert json.dumps(from_arrays[key]) == json.dumps(from_paths[key])


def test_a_table_is_judged_by_its_standardised_columns(tmp_path):
    """A column in large units must not drown the others; categories count."""
    import pandas

    rng = np.random.default_rng(0)

    def table(num):
        return pandas.DataFrame(
            {
                "income": 1e5 * rng.normal(size=num),
                "age": rng.normal(size=num),
                "height": rng.normal(size=num),
                "city": rng.choice(["a", "b", "c"], size=num),
            }
        )

    train, heldout, samples = table(200), table(200), table(200)
    copied = train.iloc[:30].assign(income=lambda rows: rows["income"] + 50.0)
    samples.iloc[:30] = copied
    for name, frame in (("train", train), ("heldout", heldout), ("generated", samples)):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    result = audit(
        **{name: tmp_path / f"{name}.csv" for name in ("generated", "train", "heldout")}
    )
    assert result.verdict == "memorizing" and result.evidence[0].name == "table"


def test_features_come_from_the_cache_the_second_time(tmp_path):
    train, heldout, rest = digits()
    one = audit(generated=rest, train=train, heldout=heldout, features="pca:8", cache=tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    two = audit(generated=rest, train=train, heldout=heldout, features="pca:8", cache=tmp_path)
    assert files and files == sorted(path.name for path in tmp_path.iterdir())
    assert one.decision == two.decision


def test_the_gate_needs_a_verdict_and_a_fraction():
    train, heldout = normal(300), normal(300, seed=1)
    samples = normal(300, seed=2)
    assert not audit(generated=samples, train=train, heldout=heldout, fail_above=0.0).gate_failed
    samples[:60] = train[:60]
    assert audit(generated=samples, train=train, heldout=heldout, fail_above=0.1).gate_failed
    assert not audit(generated=samples, train=train, heldout=heldout, fail_above=0.5).gate_failed


def test_nearness_without_copies_is_not_called_copying():
    """Every sample halfway to a training point: the exchange test alone rejects."""
    train, heldout = normal(400, 64), normal(400, 64, seed=1)
    samples = 0.3 * train[:300] + 0.95 * normal(300, 64, seed=2)
    result = audit(generated=samples, train=train, heldout=heldout)
    assert result.verdict == "memorizing" and result.decision.copied_low == 0.0
    assert "few or none are outright copies" in result.advice[0].finding
    assert not any("part of the samples are copies" in one.finding for one in result.advice)


def test_json_has_a_version_and_no_holes(tmp_path):
    train = normal(60)
    result = audit(generated=train[:30], train=train, heldout=normal(60, seed=1))
    text = result.to_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found == json.loads(text) and found["schema"] == 1
    assert found["verdict"] == "memorizing" and "below 1e-300" not in found["data"]
    assert {"pairs", "advice", "evidence", "settings", "provenance", "data"} <= set(found)


def test_bad_input_is_one_sentence():
    train, byte = normal(20), Dataset(torch.zeros(4, 1, 4, 4), "images", "byte")
    broken = train.clone()
    broken[3, 2] = torch.nan
    cases = [
        ({"generated": train, "train": train[:1]}, "at least 2"),
        ({"generated": train, "train": train[:1].repeat(5, 1)}, "copies of one point"),
        ({"generated": broken, "train": train}, "NaN"),
        ({"generated": train[:, :3], "train": train}, "shape"),
        ({"generated": train, "train": train, "heldout": train[:1]}, "at least 2"),
        ({"generated": train, "train": train, "level": 1.5}, "level must lie"),
        ({"generated": train, "train": train, "features": []}, "at least one descriptor"),
        ({"generated": train, "train": train, "features": "colour"}, "colour"),
        ({"generated": train, "train": train, "invariance": "flip"}, "images"),
        (
            {
                "generated": Dataset(torch.rand(4, 1, 4, 4) - 0.5, "images", "signed"),
                "train": byte,
            },
            r"\[0, 255\]",
        ),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words) as error:
            audit(**arguments)
        assert "\n" not in str(error.value)
