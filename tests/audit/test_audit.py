"""The audit from end to end, on planted and on real data."""

import json

import numpy as np
import pytest
import torch

from memdiff.audit import audit
from memdiff.data import Dataset, load
from memdiff.generate import GenerationSettings, generate


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


def test_mirrored_copies_are_found_in_pixels_with_the_invariance_only():
    train, heldout, rest = digits()
    x = rest.x.clone()
    x[:10] = train.x[40:50].flip(-1)
    sets = {"generated": x, "train": train, "heldout": heldout, "features": "pixels"}
    plain, seen = audit(**sets), audit(**sets, invariance="flip")
    assert plain.verdict not in ("memorizing", "overfitting")
    assert seen.verdict == "memorizing"
    flagged = {pair.sample for pair in seen.pairs if pair.flagged}
    assert flagged >= set(range(10)) and flagged == set(seen.flagged)
    assert all(pair.variant == "flip" for pair in seen.pairs if pair.sample < 10)


def edited(images, how):
    """Images in [0, 16], edited: what pixels do not see."""
    x = images / 16
    if how == "brighter":
        x = (0.7 * x + 0.25).clamp(0, 1)
    elif how == "mirrored":
        x = x.flip(-1)
    elif how == "softer":
        x = 0.6 * x + 0.4 * torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    return 16 * x


@pytest.mark.parametrize("how", ["brighter", "mirrored", "softer"])
def test_edited_copies_are_found_by_default(how):
    """Pixels and registered thumbnails; the level is shared between them."""
    train, heldout, rest = digits()
    x = rest.x.clone()
    x[:20] = edited(train.x[40:60], how)
    result = audit(generated=x, train=train, heldout=heldout)
    assert result.settings.features == ("pixels", "thumbnail:8") and len(result.evidence) == 2
    assert result.verdict == "memorizing" and result.decision.descriptor == "thumbnail:8"
    right = [pair.sample < 20 and pair.train == 40 + pair.sample for pair in result.pairs[:20]]
    assert sum(right) >= 16


def test_fresh_images_are_no_edited_copies():
    for seed in range(2):
        train, heldout, rest = digits(seed)
        result = audit(generated=rest, train=train, heldout=heldout)
        assert result.verdict in ("not detected", "inconclusive") and not result.flagged


def test_the_features_that_saw_the_copies_are_named():
    """Two descriptors: the level is shared, and the one that decides is said."""
    train, heldout = normal(200), normal(200, seed=1)
    samples = normal(200, seed=2)
    samples[:20] = train[:20]
    result = audit(generated=samples, train=train, heldout=heldout, features=["pixels", "pca:2"])
    assert result.verdict == "memorizing" and len(result.evidence) == 2
    best = min(result.evidence, key=lambda entry: entry.tests.p_value)
    assert result.decision.descriptor == best.name
    assert result.decision.p_value == pytest.approx(min(1, 2 * best.tests.p_value))


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


def test_the_gate_looks_at_the_flagged_samples_too():
    """One point copied often: the interval of the estimate holds 0, and a tenth is flagged."""
    train, heldout, samples = (normal(300, seed=seed) for seed in range(3))
    samples[:30] = train[7]
    result = audit(generated=samples, train=train, heldout=heldout, fail_above=0.05)
    assert result.verdict == "memorizing" and result.decision.copied_low == 0.0
    assert result.flagged == tuple(range(30)) and result.gate_failed
    assert "copied again and again" in result.decision.sentence
    (point,) = result.copied_points
    assert (point.train, point.copies) == (7, 30)
    assert result.extraction.extracted == 1


def test_nearness_without_copies_is_overfitting():
    """Every sample halfway to a training point: the share test rejects, and nothing stands out."""
    train, heldout = normal(400, 64), normal(400, 64, seed=1)
    samples = 0.3 * train[:300] + 0.95 * normal(300, 64, seed=2)
    result = audit(generated=samples, train=train, heldout=heldout, fail_above=0.0)
    assert result.verdict == "overfitting" and result.decision.copied_low == 0.0
    assert "no copies stand out" in result.advice[0].finding
    assert result.flagged == () and not result.gate_failed and result.extraction is None
    assert not any("are copies" in one.finding for one in result.advice)


def test_without_held_out_data_there_is_no_verdict():
    """Neither for copies, whose pairs come first, nor for fresh samples."""
    train = normal(100)
    samples = torch.cat([normal(80, seed=2), train[:10]])
    result = audit(generated=samples, train=train, fail_above=0.0)
    assert result.verdict == "inconclusive" and result.decision.p_value == 1.0
    assert "There are no held-out data" in result.decision.sentence
    assert "10 of the 90 samples equal a training point" in result.decision.sentence
    assert result.flagged == () and not result.gate_failed
    assert [pair.sample for pair in result.pairs[:10]] == list(range(80, 90))
    assert [pair.train for pair in result.pairs[:10]] == list(range(10))
    assert result.pairs[0].heldout is None and result.evidence[0].tests is None
    fresh = audit(generated=normal(80, seed=2), train=train)
    assert fresh.verdict == "inconclusive" and "equal a training point" not in (
        fresh.decision.sentence
    )
    assert any("Give --heldout" in one.action for one in fresh.advice)


def test_sets_of_different_sources_give_no_verdict():
    """Held-out data that lie elsewhere make every sample look near to train."""
    train, samples = normal(200), normal(200, seed=1)
    result = audit(generated=samples, train=train, heldout=normal(200, seed=2) + 0.8)
    assert result.verdict == "inconclusive" and result.flagged == ()
    assert "not exchangeable" in result.decision.sentence
    assert any("random split" in one.action for one in result.advice)


def test_near_duplicates_by_nature_are_no_copies():
    """Motives that come in many encodings, in every set: 12 of 20 draws were called copies."""
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((900, 16))
        some = rng.random(900) < 0.3
        x[some] = rng.standard_normal((60, 16))[rng.integers(0, 60, some.sum())]
        x[some] += 1e-4 * rng.standard_normal((some.sum(), 16))
        result = audit(generated=x[:300], train=x[300:600], heldout=x[600:])
        assert result.inputs.duplicates.num_redundant > 20
        found.append(result.evidence[0].tests.tail.p_value)
    assert sum(p <= 0.05 for p in found) <= 1


def test_pairs_flagged_samples_and_points_agree():
    """More flagged samples than pairs that were asked for: none is left out."""
    train, heldout, samples = (normal(200, seed=seed) for seed in range(3))
    samples[:60] = train[:60]
    samples[60:65] = train[:5]
    result = audit(generated=samples, train=train, heldout=heldout, pairs=4)
    flagged = {pair.sample for pair in result.pairs if pair.flagged}
    assert flagged == set(result.flagged) >= set(range(65))
    assert len(result.pairs) == len(result.flagged)
    ratios = [pair.ratio for pair in result.pairs]
    assert ratios == sorted(ratios)
    assert sum(point.copies for point in result.copied_points) == len(flagged)
    counts = {point.train: point.copies for point in result.copied_points}
    assert all(counts[i] == (2 if i < 5 else 1) for i in range(60))
    assert result.extraction.extracted == len(result.copied_points)
    found = audit(generated=normal(200, seed=2), train=train, heldout=heldout, pairs=4)
    assert len(found.pairs) == 4 and found.copied_points == ()


def test_the_seed_decides_everything_random():
    sets = {
        name: normal(80, seed=seed) for seed, name in enumerate(("generated", "train", "heldout"))
    }
    one, same, other = (
        audit(**sets, seed=seed).to_dict()["evidence"][0]["tests"]["share"]["p_value"]
        for seed in (0, 0, 1)
    )
    assert one == same != other


def test_json_has_a_version_and_no_holes(tmp_path):
    train = normal(60)
    result = audit(generated=train[:30], train=train, heldout=normal(60, seed=1))
    text = result.to_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found == json.loads(text) and found["schema"] == 2
    assert found["verdict"] == found["decision"]["name"] == "memorizing"
    assert {"pairs", "advice", "evidence", "settings", "provenance", "data", "notes"} <= set(found)
    assert found["copied"] == dict(zip(("estimate", "low", "high"), result.copied, strict=True))
    assert found["flagged"] == list(result.flagged) == list(range(30))
    assert found["gate"] == {"fail_above": None, "failed": False}
    assert found["overlap"]["heldout"] == [] and found["samples_on_train"] == 30
    assert found["compared"] == {"train": 60, "heldout": 60}
    tests = found["evidence"][0]["tests"]
    assert tests["p_copy"] == result.decision.p_value
    assert {"tail", "share", "local_exceedance", "repeated_cell", "list"} <= set(tests)
    alone = json.loads(audit(generated=train[:30], train=train).to_json())
    assert alone["evidence"][0]["tests"] is None and alone["verdict"] == "inconclusive"


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


def test_collapse_is_not_said_of_points_that_belong_together():
    """Coverage compares with independent points: twenty scans of a patient are none."""
    rng = np.random.default_rng(0)
    patients = np.repeat(rng.standard_normal((30, 16)), 20, 0)
    rows = (patients + 0.3 * rng.standard_normal((600, 16))).astype("float32")
    sets = dict(zip(("generated", "train", "heldout"), np.split(rows, 3), strict=True))
    labels = np.arange(200) // 20
    for groups in ({"train": labels, "heldout": labels + 10}, None):
        result = audit(**sets, groups=groups)  # without groups, the sets are not exchangeable
        assert not any("collapsed" in one.action for one in result.advice)
    sets = rng.standard_normal((2, 200, 8)).astype("float32")
    spot = (sets[0][0] + 0.01 * rng.standard_normal((200, 8))).astype("float32")
    found = audit(generated=spot, train=sets[0], heldout=sets[1]).advice
    assert any("collapsed" in one.action for one in found)
