"""The journal: exact after a resume, a torn line left out."""

import pytest

from memdiff.training import Journal, read_journal


def test_journal_drops_what_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3, 4):
        journal.append({"step": step, "loss": step / 3})
    with path.open("a") as stream:
        stream.write('{"step": 5, "lo')  # the machine lost power here
    assert [record["step"] for record in read_journal(path)] == [1, 2, 3, 4]
    journal = Journal(path, upto=2)
    journal.append({"step": 3, "loss": 1.0})
    assert list(read_journal(path)) == [
        {"step": 1, "loss": 1 / 3},
        {"step": 2, "loss": 2 / 3},
        {"step": 3, "loss": 1.0},
    ]
    assert list(read_journal(tmp_path / "none.jsonl")) == []
    with pytest.raises(ValueError, match="record must have a 'step'"):
        journal.append({"loss": 1.0})
