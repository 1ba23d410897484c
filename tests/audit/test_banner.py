"""The banner of a verdict, on the page of an audit and on that of a training run."""

from typing import get_args

import pytest

from memdiff.audit.page.banner import verdict_banner
from memdiff.audit.verdict import VerdictName, undecidable


@pytest.mark.parametrize("name", get_args(VerdictName))
def test_every_verdict_has_its_words_and_its_tone(name):
    from dataclasses import replace

    verdict = replace(
        undecidable("Why.", samples_on_train=0, samples=9, level=0.05, resolution=0.01), name=name
    )
    banner = verdict_banner(verdict, {"a": "1"})
    bad = name in ("memorizing", "overfitting")
    assert (banner.tone == "bad") == bad
    assert name.split()[-1] in banner.verdict.lower()
    assert verdict_banner(verdict, {}, of="The kept model").verdict.startswith("The kept model: ")
