"""States and weights on disk: exact, whole, refused where they do not fit."""

import pytest
import torch

from memdiff.processes import VP
from memdiff.scores import NetworkScore
from memdiff.training import (
    TrainingSettings,
    TrainingState,
    load_state,
    load_weights,
    save_state,
    save_weights,
    train,
)
from memdiff.training.networks import MLP, UNet

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def unet():
    net = UNet((1, 8, 8), width=8, multipliers=(1,), blocks=1, dropout=0.3)
    return NetworkScore(net, VP())


def mlp(width=16):
    return NetworkScore(MLP((2,), width=width), VP())


def everything(state):
    tensors = [*state.score.state_dict().values(), *state.averaged.state_dict().values()]
    for _, entry in sorted(state.optimizer.state_dict()["state"].items()):
        tensors.extend(entry[key] for key in sorted(entry) if isinstance(entry[key], torch.Tensor))
    return tensors


def test_resume_is_exact(tmp_path):
    """Dropout, warm-up, moving average, batches across epochs: the same to the last bit."""
    settings = TrainingSettings(steps=9, batch_size=5, warmup=6, clip=1.0, weight_decay=0.01)
    whole = TrainingState(unet(), settings)
    losses = [s.loss for s in train(whole.score, IMAGES, settings=settings, state=whole)]

    first = TrainingState(unet(), settings)
    for step in train(first.score, IMAGES, settings=settings, state=first):
        if step.step == 4:
            save_state(first, tmp_path / "state.safetensors", facts={"note": [1, None]})
            break
    second = TrainingState(unet(), settings)
    assert load_state(tmp_path / "state.safetensors", second) == {"note": [1, None]}
    assert second.step == 4
    rest = [s.loss for s in train(second.score, IMAGES, settings=settings, state=second)]
    assert rest == losses[4:]
    for ours, theirs in zip(everything(second), everything(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_any_optimizer_is_saved(tmp_path):
    """A momentum buffer, and groups with other fields than those of Adam."""
    settings = TrainingSettings(steps=3)

    def start():
        score = mlp()
        return TrainingState(
            score, settings, optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)
        )

    state = start()
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    list(train(state.score, data, settings=settings, state=state))
    save_state(state, tmp_path / "s.safetensors")
    again = start()
    load_state(tmp_path / "s.safetensors", again)
    for ours, theirs in zip(everything(again), everything(state), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_round_trip(tmp_path):
    score = unet()
    save_weights(score, tmp_path / "w.safetensors", facts={"step": 7})
    other = unet()
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert load_weights(other, tmp_path / "w.safetensors") == {"step": 7}
    for ours, theirs in zip(other.state_dict().values(), score.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_refusals(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_weights(mlp(), path)
    save_weights(mlp(16), path)
    with pytest.raises(ValueError, match="of a network of another structure, first at"):
        load_weights(mlp(17), path)
    with pytest.raises(ValueError, match="holds weights alone"):
        load_state(path, TrainingState(mlp(), TrainingSettings()))
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of memdiff: it has no memdiff header"):
        load_weights(mlp(), tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="no checkpoint of memdiff"):
        load_weights(mlp(), tmp_path / "text.safetensors")
    state = TrainingState(mlp(), TrainingSettings())
    with pytest.raises(ValueError, match="plain JSON"):
        save_state(state, path, facts={"x": float("nan")})
    assert load_weights(mlp(16), path) == {}  # a failed save leaves the old file
