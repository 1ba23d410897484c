"""The examples run as their reader would run them."""

import importlib.util
from pathlib import Path

import pytest
import torch

from memdiff.samplers import Heun, sample
from memdiff.scores import DiffusersScore

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_diffusers_training(tmp_path, capsys, monkeypatch):
    """The loop observes where it says, stops when told, and leaves a pipeline of the best."""
    pytest.importorskip("diffusers")
    pytest.importorskip("accelerate")
    training = example("diffusers_training")
    kept = {}

    class Planted(training.Monitor):
        """Sees memorisation at the third look, and the second look as the best."""

        memorizing = property(lambda self: len(self.observations) == 3)

        def observe(self, step, score):
            seen = super().observe(step, score)
            kept[step] = [p.detach().clone() for p in score.net.parameters()]
            return seen

        def is_best(self):
            return len(self.observations) == 2

    monkeypatch.setattr(training, "Monitor", Planted)
    state = torch.random.get_rng_state()
    monitor = training.main(
        ["--quick", "--steps", "20", "--look-every", "3", "--out", str(tmp_path / "ddpm")]
    )
    torch.random.set_rng_state(state)
    assert [seen.step for seen in monitor.observations] == [3, 6, 9]  # not to step 20
    assert capsys.readouterr().out.count("held-out") == 3
    score = DiffusersScore.from_pretrained(tmp_path / "ddpm")
    for ours, best in zip(score.net.parameters(), kept[6], strict=True):
        torch.testing.assert_close(ours.detach(), best)
    assert not torch.equal(kept[6][0], kept[9][0])
    drawn = sample(score, num=2, shape=(1, 8, 8), sampler=Heun(steps=2)).x
    assert drawn.shape == (2, 1, 8, 8) and drawn.isfinite().all()
