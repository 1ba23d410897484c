"""Tables on the command line: rows in, rows of the same form out, and from there to the audit."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from memdiff.cli import main
from memdiff.cli.data_options import add_data_options, load_sets
from memdiff.cli.parser import Parser
from memdiff.data import TableEncoding, load
from memdiff.samplers import Heun, sample
from memdiff.training import load_encoding, load_model

TRAINING = (
    *("--steps", "150", "--width", "32", "--depth", "1", "--monitor-every", "75"),
    *("--monitor-samples", "20", "--sampler-steps", "6", "--audit-samples", "40", "--quiet"),
)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def diabetes():
    """Real patients, with categories, integers, booleans and dates."""
    frame = load_diabetes(as_frame=True, scaled=False).frame
    days = (11 * frame["s1"].astype(int)).to_numpy().astype("timedelta64[D]")
    return frame.assign(
        sex=np.where(frame["sex"] == 1, "male", "female"),
        age=frame["age"].astype(int),
        high=frame["target"] > 200,
        seen=(np.datetime64("2001-01-01") + days).astype(str),
    )


def with_gaps():
    frame = diabetes()
    chance = np.random.default_rng(0)
    for column in ("age", "bmi", "sex", "seen", "high"):
        frame[column] = frame[column].astype(object)
        frame.loc[chance.random(len(frame)) < 0.08, column] = None
    return frame


def named(loader):
    bunch = loader(as_frame=True)
    return bunch.frame.assign(target=[str(bunch.target_names[i]) for i in bunch.target])


def write(path, frame):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        typed = {"seen": pd.to_datetime(frame["seen"])} if "seen" in frame else {}
        frame.assign(**typed).to_parquet(path, index=False)
    return path


def read(path):
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def rows(path):
    return set(map(tuple, read(path).astype(str).to_numpy().tolist()))


@pytest.mark.parametrize(
    ("table", "file"),
    [
        (lambda: named(load_iris), "iris.csv"),
        (lambda: named(load_wine), "wine.parquet"),
        (lambda: named(load_breast_cancer), "cancer.csv"),
        (diabetes, "patients.csv"),
        (diabetes, "patients.parquet"),
    ],
)
def test_unregularised_samples_are_rows_of_the_table(table, file, tmp_path, capsys):
    """The theory: the exact score returns its training data, to the last digit."""
    train, out = write(tmp_path / file, table()), tmp_path / f"out-{file}"
    code, text, _ = run(capsys, "sample", "--train", train, "--num", 60, "--out", out)
    assert code == 0
    assert text.startswith(f"60 rows of {len(read(train).columns)} columns in {out}")
    assert rows(out) <= rows(train) and len(rows(out)) > 30
    assert list(read(out).columns) == list(read(train).columns)
    assert [t.kind for t in read(out).dtypes] == [t.kind for t in read(train).dtypes]
    record = json.loads(out.with_suffix(".json").read_text())
    assert TableEncoding.from_dict(record["table"]) == TableEncoding.fit(load(train))


def test_regularised_samples_stay_in_the_ranges_and_forms_of_the_table(tmp_path, capsys):
    train, out = write(tmp_path / "t.csv", diabetes()), tmp_path / "s.csv"
    chosen = ("--regularizer", "early-stop", "--strength", "silverman")
    code, text, _ = run(capsys, "sample", "--train", train, "--num", 300, "--out", out, *chosen)
    assert code == 0 and "the unit is one standard deviation of a column" in text
    frame, made = read(train), read(out)
    assert not rows(out) & rows(train)
    assert set(made["sex"]) == {"male", "female"} and made["age"].dtype == np.int64
    numbers = frame.select_dtypes("number").columns
    for column in numbers:
        assert made[column].between(frame[column].min(), frame[column].max()).all()
        # One noise level for columns of all scales would leave some as they are and drown others.
        ratio = made[column].std() / frame[column].std()
        assert 0.7 < ratio < 1.5, (column, ratio)
        assert abs(made[column].mean() - frame[column].mean()) < 0.3 * frame[column].std()
    assert made["seen"].between(frame["seen"].min(), frame["seen"].max()).all()


@pytest.mark.parametrize(
    ("missing", "suffix"),
    [
        (None, ".parquet"),
        ("drop", ".csv"),
        ("mean", ".csv"),
        ("category", ".csv"),
        ("category", ".parquet"),
    ],
)
def test_from_the_table_to_samples_to_the_audit(missing, suffix, tmp_path, capsys):
    frame = diabetes() if missing is None else with_gaps()
    if suffix == ".parquet":
        frame = frame.convert_dtypes()
    train = write(tmp_path / f"train{suffix}", frame.iloc[::2])
    heldout = write(tmp_path / f"heldout{suffix}", frame.iloc[1::2])
    how = () if missing is None else ("--missing", missing)
    out = tmp_path / f"samples{suffix}"
    code, _, err = run(capsys, "sample", "--train", train, "--num", 150, "--out", out, *how)
    assert code == 0, err
    sets = ("--generated", out, "--train", train, "--heldout", heldout, "--out", tmp_path / "a")
    code, text, err = run(capsys, "audit", *sets, *how, "--quiet")
    assert code == 0, err
    assert text.startswith("memorizing")
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["decision"]["copied"] > 0.9
    gaps = int(read(out).isna().sum().sum())
    assert (gaps > 0) == (missing == "category")


@pytest.mark.parametrize("missing", ["mean", "category"])
def test_all_sets_are_filled_as_the_training_set(missing, tmp_path):
    train = write(tmp_path / "train.csv", pd.DataFrame({"a": [1, None, 3], "b": ["x", "y", "y"]}))
    other = write(tmp_path / "other.csv", pd.DataFrame({"a": [8, 9], "b": ["x", "x"]}))
    gaps = write(tmp_path / "gaps.csv", pd.DataFrame({"a": [8, None], "b": ["x", "x"]}))
    parser = Parser()
    add_data_options(parser)
    options = parser.parse_args(["--missing", missing])
    options.quiet = True
    sources = {"generated": str(gaps), "train": str(train), "heldout": str(other)}
    sets = load_sets(options, sources)
    assert list(sets) == list(sources)
    for data in sets.values():
        assert data.columns == (("a", "b") if missing == "mean" else ("a", "a missing", "b"))
    assert sets["generated"].x[:, 0].tolist() == [8, 2]  # the mean of the training set


@pytest.mark.parametrize("missing", ["mean", "category"])
def test_fresh_rows_with_gaps_are_no_copies(missing, tmp_path, capsys):
    frame = with_gaps()
    for start, name in enumerate(("train", "generated", "heldout")):
        write(tmp_path / f"{name}.csv", frame.iloc[start::3])
    sets = [
        x for n in ("train", "generated", "heldout") for x in (f"--{n}", tmp_path / f"{n}.csv")
    ]
    arguments = (*sets, "--missing", missing, "--out", tmp_path / "a")
    code, text, err = run(capsys, "audit", *arguments)
    assert code == 0 and not text.startswith(("memorizing", "overfitting")), text
    assert f"missing values filled in ({missing})" in err
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert f"missing values filled in ({missing})" in json.dumps(report)


@pytest.mark.parametrize(
    ("table", "file", "how"),
    [
        (diabetes, "t.csv", ()),
        (with_gaps, "t.csv", ("--missing", "category")),
        (lambda: named(load_wine), "t.parquet", ()),
    ],
)
def test_train_ends_in_rows_and_their_audit(table, file, how, tmp_path, capsys):
    train, out = write(tmp_path / file, table()), tmp_path / "run"
    code, _, err = run(capsys, "train", "--train", train, "--out", out, *TRAINING, *how)
    assert code == 0, err
    samples = out / f"samples{train.suffix}"
    frame, made = read(train), read(samples)
    assert len(made) == 40 and list(made.columns) == list(frame.columns)
    for column in frame.select_dtypes("number").columns:
        present = made[column].dropna()
        assert present.between(frame[column].min(), frame[column].max()).all()
    for column in frame.select_dtypes(["object", "string"]).columns.difference(["seen"]):
        assert set(made[column].dropna()) <= set(frame[column].dropna())
    looks = sorted((out / "samples").iterdir())
    assert [look.suffix for look in looks] == [train.suffix] * 3
    assert list(read(looks[-1]).columns) == list(frame.columns)
    assert not list(out.glob("*.npz"))

    encoding = load_encoding(out)
    drawn = sample(
        load_model(out),
        num=40,
        shape=(len(encoding.coordinates),),
        sampler=Heun(steps=6),
        start=520,
    )
    assert encoding.decode(drawn.x).x.shape[1] == len(encoding.columns)
    assert "one standard deviation of a column" in (out / "report.html").read_text()

    # The audit of the files says what the audit of the run says.
    share = load(train, **({"missing": how[1]} if how else {})).split(0.2, seed=0)
    written = [tmp_path / f"{name}{train.suffix}" for name in ("heldout", "used")]
    for path, part in zip(written, share, strict=True):
        write(path, frame.iloc[[int(name.split()[1]) for name in part.names]])
    sets = ("--generated", samples, "--train", written[1], "--heldout", written[0])
    code, _, err = run(capsys, "audit", *sets, *how, "--out", tmp_path / "a", "--quiet")
    assert code == 0, err
    inside = json.loads((out / "audit.json").read_text())
    again = json.loads((tmp_path / "a" / "report.json").read_text())
    assert again["verdict"] == inside["verdict"]
    assert again["decision"]["copied"] == pytest.approx(inside["decision"]["copied"], abs=0.02)


def test_a_network_on_a_table_learns_its_columns(tmp_path, capsys):
    """The complaint: ages of 16,027 and sex = -11075."""
    train, out = write(tmp_path / "t.csv", diabetes()), tmp_path / "run"
    longer = ("--steps", 800, "--sampler-steps", 18, "--audit-samples", 300)
    code, _, err = run(capsys, "train", "--train", train, "--out", out, *TRAINING, *longer)
    assert code == 0, err
    frame, made = read(train), read(out / "samples.csv")
    for column in frame.select_dtypes("number").columns:
        error = abs(made[column].mean() - frame[column].mean()) / frame[column].std()
        assert error < 0.5, (column, error)
    share = (frame["sex"] == "male").mean()
    assert abs((made["sex"] == "male").mean() - share) < 0.2
    # s1 and s2 are both cholesterol: a model of the rows, not of each column.
    assert made["s1"].corr(made["s2"]) > 0.7


def spoiled(kind):
    frame = diabetes()
    if kind == "one row":
        return frame.iloc[:1]
    if kind == "equal rows":
        return frame.iloc[[0] * 20]
    if kind == "empty column":
        return frame.assign(gone=None)
    if kind == "junk":
        return frame.assign(age=frame["age"].astype(str).where(frame.index % 7 > 0, "?"))
    if kind == "mixed dates":
        return frame.assign(seen=frame["seen"].where(frame.index % 7 > 0, "31/01/2020"))
    if kind == "gaps":
        return with_gaps()
    raise KeyError(kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("one row", ["only one row"]),
        ("equal rows", ["the same values in all its rows"]),
        ("empty column", ["'gone'", "is empty"]),
        ("junk", ["'age'", "missing values, first in row 0", "--missing drop"]),
        ("mixed dates", ["'seen'", "'31/01/2020' in row 0", "--categorical seen"]),
        ("gaps", ["'age'", "missing values", "--missing drop, --missing mean or --missing"]),
    ],
)
def test_bad_tables_are_one_sentence(kind, words, tmp_path, capsys):
    train = write(tmp_path / "bad.csv", spoiled(kind))
    before = sorted(tmp_path.iterdir())
    for command, out in (("sample", "s.csv"), ("train", "run")):
        arguments = ("--train", train, "--out", tmp_path / out, "--heldout-share", 0)[
            : 6 if command == "train" else 4
        ]
        code, text, err = run(capsys, command, *arguments, "--quiet")
        assert (code, text) == (2, "") and err.count("\n") == 1, err
        assert "bad.csv" in err and all(word in err for word in words), err
        assert sorted(tmp_path.iterdir()) == before


def test_heldout_rows_that_do_not_fit_are_one_sentence(tmp_path, capsys):
    train = write(tmp_path / "train.csv", diabetes())
    for number, (other, words) in enumerate(
        [
            (diabetes().replace({"sex": {"male": "diverse"}}), ["'sex'", "'diverse'", "row"]),
            (diabetes().drop(columns="bmi"), ["lacks the column 'bmi'"]),
            (diabetes().iloc[:, ::-1], ["another order"]),
            (diabetes().assign(sex=1), ["'sex'", "numeric in heldout", "--categorical sex"]),
        ]
    ):
        heldout = write(tmp_path / f"heldout{number}.csv", other.iloc[:50])
        sets = ("--train", train, "--heldout", heldout, "--out", tmp_path / "run")
        code, text, err = run(capsys, "train", *sets, *TRAINING)
        assert (code, text) == (2, "") and err.count("\n") == 1, err
        assert "heldout" in err and all(word in err for word in words), err
        assert not (tmp_path / "run").exists()


def test_the_file_of_the_samples_must_hold_them(tmp_path, capsys):
    train = write(tmp_path / "t.csv", diabetes())
    numbers = write(tmp_path / "n.csv", load_wine(as_frame=True).frame)
    for source, out, word in (
        (train, "s.npz", ".csv or .parquet"),
        (train, "s.txt", ".csv or .parquet"),
        ("digits", "s.csv", ".npz"),
    ):
        arguments = ("--train", source, "--num", 2, "--out", tmp_path / out)
        code, _, err = run(capsys, "sample", *arguments)
        assert code == 2 and word in err and "--out" in err
        assert not (tmp_path / out).exists()
    out = tmp_path / "n.npz"
    assert run(capsys, "sample", "--train", numbers, "--num", 5, "--out", out)[0] == 0
    known = {tuple(row) for row in load(numbers).x.tolist()}
    assert {tuple(row) for row in load(out).x.tolist()} <= known


def test_the_table_itself_is_never_replaced(tmp_path, capsys):
    train = write(tmp_path / "t.csv", named(load_iris))
    before = train.read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(train)
    for out in (train, link, tmp_path / "." / "t.csv"):
        code, _, err = run(capsys, "sample", "--train", train, "--num", 2, "--out", out)
        assert code == 2 and "no output replaces an input" in err
    assert train.read_bytes() == before


def test_identifiers_are_noted_on_standard_error_and_on_the_page(tmp_path, capsys):
    frame = named(load_iris).assign(patient=[f"p{i}" for i in range(150)])
    train = write(tmp_path / "t.csv", frame)
    out = tmp_path / "s.csv"
    code, _, err = run(capsys, "sample", "--train", train, "--num", 40, "--out", out)
    assert code == 0 and "'patient' looks like an identifier" in err
    assert run(capsys, "sample", "--train", train, "--out", out, "--quiet")[2].count("note") == 1
    sets = ("--generated", out, "--train", train, "--out", tmp_path / "a")
    assert run(capsys, "audit", *sets, "--quiet")[0] == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "looks like an identifier" in page


def test_tables_without_names(tmp_path, capsys):
    frame = named(load_iris)
    train, out = tmp_path / "t.csv", tmp_path / "s.csv"
    frame.to_csv(train, index=False, header=False)
    code, _, err = run(capsys, "sample", "--train", train, "--num", 40, "--out", out)
    assert code == 2 and "pass --no-header" in err
    code, _, err = run(
        capsys, "sample", "--train", train, "--num", 40, "--out", out, "--no-header"
    )
    assert code == 0, err
    assert set(out.read_text().splitlines()) <= set(train.read_text().splitlines())
    sets = ("--generated", out, "--train", train, "--out", tmp_path / "a", "--no-header")
    assert run(capsys, "audit", *sets, "--quiet")[0] == 0


def test_a_run_that_was_cut_goes_on_to_the_same_rows(tmp_path, capsys):
    train = write(tmp_path / "t.csv", diabetes())
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    how = ("--train", train, "--num", 30, "--batch-size", 10, "--regularizer", "tikhonov")
    how = (*how, "--strength", 0.1)
    assert run(capsys, "sample", *how, "--out", whole)[0] == 0
    from memdiff.generate import generation

    batches = generation._sample_batch
    calls = []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batches(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "_sample_batch", failing)
        patch.setattr(generation.Pace, "is_told", True)  # as after its first two seconds
        assert run(capsys, "sample", *how, "--out", cut)[0] == 130
        assert cut.with_suffix(".partial").is_dir() and not cut.exists()
        assert run(capsys, "sample", *how, "--out", cut)[0] == 0
    assert len(calls) == 4
    assert cut.read_bytes() == whole.read_bytes() and not cut.with_suffix(".partial").exists()
