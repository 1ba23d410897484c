"""An audit shared among ranks: the audit of one process."""

import pytest
import torch

from memdiff.audit import audit


def images(num, seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num, 1, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear")


@pytest.mark.parametrize(
    "choices",
    [
        {"features": ["pixels", "pca:5"], "invariance": "flip"},
        {"features": ["auto"]},  # with registration
        {"features": ["pixels"], "drop_overlap": True},
    ],
    ids=lambda choices: "-".join(map(str, choices["features"])),
)
def test_all_that_is_said_is_the_same(in_ranks, choices):
    train, heldout, samples = images(100, 0), images(90, 1), images(61, 2)
    train[17] = train[3]  # a duplicate
    heldout[5] = train[9]  # an overlap
    samples[:12] = train[40:52]

    def run(ranks):
        made = audit(generated=samples, train=train, heldout=heldout, ranks=ranks, **choices)
        whole = made.to_dict()
        del whole["provenance"]
        return made.verdict, whole, [one.tests.p_value for one in made.evidence]

    alone = run(None)
    assert alone[0] == "memorizing"
    for found in in_ranks(2, run):
        assert found == alone
