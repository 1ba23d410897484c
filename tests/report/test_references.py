"""The list of references."""

from memdiff.report.references import REFERENCES, reference


def test_every_key_of_the_docstrings_has_a_reference():
    keys = {"B25", "K22", "W24", "S25", "G25", "Z26", "Bo25", "Y23", "Gu23", "M20", "A22", "N20"}
    assert keys | {"J23", "Ba23"} <= set(REFERENCES)
    assert all(reference(key).key == key for key in REFERENCES)
