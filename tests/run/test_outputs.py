"""What may be written: the relations between outputs and inputs, as the file system knows them."""

import os

import pytest

from memdiff.run.outputs import require_absent, require_apart


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_text("picture")
    (tmp_path / "mine.npz").write_text("data")
    (tmp_path / "link.npz").symlink_to("mine.npz")
    (tmp_path / "linked").symlink_to("images")
    os.link("mine.npz", "hard.npz")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").mkdir()
    (tmp_path / "run" / "data.npz").write_text("data")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "source", "relation"),
    [
        ("mine.npz", "mine.npz", "is"),
        ("./images/../mine.npz", "mine.npz", "is"),
        ("link.npz", "mine.npz", "is"),
        ("mine.npz", "link.npz", "is"),
        ("hard.npz", "mine.npz", "is"),
        ("images", "images", "is"),
        ("linked", "images", "is"),
        ("images/new.npz", "images", "lies in"),
        ("linked/deep/er/new.npz", "images", "lies in"),
        ("images/new", "linked", "lies in"),
        ("mine.npz", "m*.npz", "is"),
        ("images/0.png", "images/*.png", "is"),
    ],
)
def test_an_output_that_touches_an_input_is_refused(tree, output, source, relation):
    with pytest.raises(
        ValueError, match=rf"out '{output}' {relation} train \(.*no output replace"
    ):
        require_apart([output], {"train": source})
    require_apart([tree / "other.npz"], {"train": source})


def test_a_link_of_the_home_folder_is_followed(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    with pytest.raises(ValueError, match="no output replaces an input"):
        require_apart(["mine.npz"], {"train": "~/mine.npz"})


def test_another_case_is_the_same_file_where_the_system_says_so(tree, monkeypatch):
    """On a file system without case; here the answer of the system is simulated."""
    from pathlib import Path

    def samefile(self, other):
        return str(self).lower().split("/")[-1] == str(other).lower().split("/")[-1]

    monkeypatch.setattr(Path, "samefile", samefile)
    with pytest.raises(ValueError, match=r"out 'MINE\.npz' is train"):
        require_apart(["MINE.npz"], {"train": "mine.npz"})


def test_what_does_not_touch_is_allowed(tree):
    inputs = {"train": "run/data.npz", "heldout": None, "generated": "digits", "other": "x*.npy"}
    require_apart(["run", "run/report.html", "images/0.npz"], inputs)
    with pytest.raises(ValueError, match="out 'run/samples' is train"):
        require_apart(["run"], {"train": "run/samples"}, folders=["run/samples"])
    with pytest.raises(ValueError, match="out 'run' holds train"):
        require_apart([], {"train": "run/data.npz"}, folders=["run"])


def test_what_exists_is_not_replaced(tree):
    require_absent([tree / "new.npz"])
    (tree / "dangling").symlink_to("nowhere")
    for path in ("mine.npz", "images", "dangling"):
        with pytest.raises(ValueError, match=f"{path}' exists: .* --overwrite"):
            require_absent([tree / "new.npz", tree / path])
