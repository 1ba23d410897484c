"""Networks of diffusers as scores: planted networks whose score is known, and real folders."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from memdiff.processes import EDM
from memdiff.processes.tabulated import TabulatedVP
from memdiff.samplers import DDIM, sample
from memdiff.scores.diffusers import Chain, DiffusersScore, Preconditioned, convention_of
from memdiff.testing import check_score

diffusers = pytest.importorskip("diffusers")

POINT = torch.tensor([[[0.5, -0.25], [0.0, 0.75]], [[-0.5, 0.1], [0.2, 0.9]]], dtype=torch.float64)
CHAIN = {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1}
PREDICTIONS = ("epsilon", "sample", "v_prediction")


class OnePoint(nn.Module):
    """The network that a scheduler would train on a single image, by the scheduler's own tables.

    It shares no code with the adapter: noise and velocity come from ``alphas_cumprod`` and
    ``get_velocity``. ``extra`` channels of rubbish stand for a learned variance.
    """

    def __init__(self, scheduler, prediction, *, extra=0, form="object"):
        super().__init__()
        self.scheduler, self.prediction = scheduler, prediction
        self.extra, self.form = extra, form
        self.steps = []

    def forward(self, x, timesteps):
        self.steps.append(timesteps)
        assert bool((timesteps == timesteps.round()).all())
        k = timesteps.long()
        alpha = self.scheduler.alphas_cumprod.double()[k].reshape(-1, 1, 1, 1)
        clean = POINT.to(x.dtype).expand_as(x)
        noise = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        output = {
            "epsilon": lambda: noise,
            "sample": lambda: clean,
            "v_prediction": lambda: self.scheduler.get_velocity(clean, noise, k),
        }[self.prediction]()
        if self.extra:
            output = torch.cat([output, torch.full_like(output, torch.nan)], dim=1)
            output = output[:, : x.shape[1] + self.extra]
        if self.form == "tuple":
            return (output,)
        return SimpleNamespace(sample=output) if self.form else output


def exact(x, scheduler, k):
    alpha = scheduler.alphas_cumprod.double()[k]
    return -(x - alpha.sqrt() * POINT) / (1 - alpha)


def points(num=4):
    return torch.randn(num, 2, 2, 2, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("k", [0, 1, 50, 99])
def test_every_prediction_type_gives_the_same_score(prediction, k):
    scheduler = diffusers.DDPMScheduler(**CHAIN, prediction_type=prediction)
    score = DiffusersScore(OnePoint(scheduler, prediction), scheduler)
    x = points()
    wanted = exact(x, scheduler, k)
    torch.testing.assert_close(score(x, k + 1.0), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(score.denoise(x, k + 1.0), POINT.expand_as(x), rtol=0, atol=2e-6)
    sigma = (1 - scheduler.alphas_cumprod.double()[k]).sqrt()
    torch.testing.assert_close(score.residual(x, k + 1.0), sigma**2 * wanted, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(score.noise(x, k + 1.0), -sigma * wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["object", "tuple", ""])
def test_the_network_is_told_the_step_of_the_time(form):
    scheduler = diffusers.DDIMScheduler(**CHAIN)
    net = OnePoint(scheduler, "epsilon", form=form)
    score = DiffusersScore(net, scheduler)
    assert isinstance(score.convention, Chain) and isinstance(score.process, TabulatedVP)
    score(points(3), torch.tensor([1.0, 8.0, 100.0]))
    assert net.steps[-1].tolist() == [0.0, 7.0, 99.0]
    score(points(1), 0.25)  # before the first step: the first step
    assert net.steps[-1].tolist() == [0.0]


def test_fractional_and_nearest_steps():
    scheduler = diffusers.DDIMScheduler(**CHAIN)
    told = []

    def net(x, timesteps):
        told.append(timesteps)
        return x

    module = nn.Module()
    module.forward = net
    x = points(2)
    DiffusersScore(module, scheduler)(x, 4.75)
    nearest = DiffusersScore(module, scheduler, timesteps="nearest")
    nearest(x, 4.75)
    assert told[0].tolist() == [3.75, 3.75] and told[0].is_floating_point()
    assert told[1].tolist() == [4, 4] and told[1].dtype == torch.int64
    # The noise level is that of the time, not of the step.
    sigma = nearest.process.std(4.75)
    torch.testing.assert_close(nearest(x, 4.75), -x / sigma)


@pytest.mark.parametrize("extra", [0, 2])
def test_learned_variance_is_left_out(extra):
    scheduler = diffusers.DDPMScheduler(**CHAIN, variance_type="learned_range")
    score = DiffusersScore(OnePoint(scheduler, "epsilon", extra=extra), scheduler)
    x = points()
    torch.testing.assert_close(score(x, 11.0), exact(x, scheduler, 10), rtol=1e-6, atol=1e-6)


def test_other_channels_are_refused():
    scheduler = diffusers.DDPMScheduler(**CHAIN)
    score = DiffusersScore(OnePoint(scheduler, "epsilon", extra=1), scheduler)
    with pytest.raises(ValueError, match=r"twice its channels, got \(4, 3, 2, 2\)"):
        score(points(), 3.0)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_zero_terminal_snr(prediction):
    scheduler = diffusers.DDIMScheduler(
        **CHAIN, prediction_type=prediction, rescale_betas_zero_snr=True
    )
    assert float(scheduler.alphas_cumprod[-1]) == 0.0
    score = DiffusersScore(OnePoint(scheduler, prediction), scheduler)
    assert score.process.zero_terminal_snr
    x = points()
    # At the last step the point is pure noise: the score is -x, and D is still the point, up to
    # the signal scale that the process keeps, half of the one before.
    scale = 0.5 * scheduler.alphas_cumprod[-2].double().sqrt()
    allowed = 1.01 * float(scale * x.abs().max())
    torch.testing.assert_close(score(x, 100.0), -x, rtol=0, atol=allowed)
    torch.testing.assert_close(score.denoise(x, 100.0), POINT.expand_as(x), rtol=0, atol=allowed)
    torch.testing.assert_close(score(x, 99.0), exact(x, scheduler, 98), rtol=1e-6, atol=1e-6)


def test_zero_terminal_snr_is_one_process_for_every_scheduler():
    # Euler and DPM-Solver keep 2^-24 for the last entry, which is not below the one before it.
    kind = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    wanted = convention_of(diffusers.DDIMScheduler(**kind)).process.alphas_cumprod
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        process = convention_of(getattr(diffusers, name)(**kind)).process
        assert torch.equal(process.alphas_cumprod, wanted)


def test_preconditioning_is_that_of_the_scheduler():
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0, sigma_data=0.7)
    for prediction in ("epsilon", "v_prediction"):
        scheduler.register_to_config(prediction_type=prediction)
        seen = {}

        class Net(nn.Module):
            def forward(self, x, timesteps):
                seen.update(x=x, timesteps=timesteps)  # noqa: B023
                return torch.tanh(x)

        score = DiffusersScore(Net(), scheduler)
        assert isinstance(score.convention, Preconditioned) and isinstance(score.process, EDM)
        x = points()
        for sigma in (0.01, 0.7, 50.0):
            denoised = score.denoise(x, sigma)
            scaled = scheduler.precondition_inputs(x, sigma)
            wanted = scheduler.precondition_outputs(x, torch.tanh(scaled), sigma)
            torch.testing.assert_close(denoised, wanted, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(seen["x"], scaled)
            told = scheduler.precondition_noise(torch.tensor(sigma))
            torch.testing.assert_close(seen["timesteps"], told.expand(4))
            torch.testing.assert_close(score.residual(x, sigma), wanted - x, rtol=1e-9, atol=1e-12)
        check_score(score, x=x, t=[0.01, 1.0, 50.0])


def test_flow_matching_network_of_one_point():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    told = []

    class Net(nn.Module):
        def forward(self, x, timesteps):
            told.append(timesteps)
            t = (timesteps.double() / 1000).reshape(-1, 1, 1, 1)
            z = (x - (1 - t) * POINT) / t
            return z - POINT

    score = DiffusersScore(Net(), scheduler)
    x = points()
    for t in (0.01, 0.5, 0.99):
        wanted = -(x - (1 - t) * POINT) / t**2
        torch.testing.assert_close(score(x, t), wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(score.denoise(x, t), POINT.expand_as(x), rtol=0, atol=1e-6)
        assert float(told[-1][0]) == pytest.approx(1000 * t)


# --- real networks ---


def unet(**settings):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **settings,
        }
    ).eval()


def images(num=3):
    return torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def train(net, scheduler, clean, steps=20):
    """The training loop of diffusers' own examples."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        noise = torch.randn(clean.shape, generator=generator)
        k = torch.randint(0, 100, (len(clean),), generator=generator)
        noisy = scheduler.add_noise(clean, noise, k)
        loss = (net(noisy, k).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained pipeline as diffusers saves it."""
    scheduler = diffusers.DDPMScheduler(**CHAIN, clip_sample=False)
    net = train(unet(), scheduler, images(8).clamp(-1, 1))
    path = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(path)
    return path


def test_a_trained_pipeline_is_a_score(folder):
    score = DiffusersScore.from_pretrained(folder)
    assert len(score.weights_sha256) == 64
    assert score.shape == (1, 8, 8) and score.dtype == torch.float32 and not score.net.training
    check_score(score, x=images(), t=[0.5, 1.0, 7.3, 50.0, 100.0])


def test_the_score_is_the_trained_noise_over_sigma(folder):
    net = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    score = DiffusersScore.from_pretrained(folder)
    with torch.no_grad():
        for k in (0, 42, 99):
            sigma = (1 - scheduler.alphas_cumprod[k].double()).sqrt()
            wanted = -net(images(), torch.tensor(k)).sample / sigma
            torch.testing.assert_close(score(images(), k + 1), wanted.float(), rtol=0, atol=1e-5)


class OnSteps(TabulatedVP):
    """A chain whose sampling grid is a scheduler's."""

    def __init__(self, scheduler):
        super().__init__(scheduler.alphas_cumprod)
        self.grid = torch.cat([scheduler.timesteps.double() + 1, torch.zeros(1).double()])
        self.t_max = float(self.grid[0])

    def time_grid(self, steps, t_end=0.0):
        assert steps == len(self.grid) - 1 and t_end == 0.0
        return self.grid


def test_sampling_agrees_with_their_pipeline(folder):
    net = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    config = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler").config
    scheduler = diffusers.DDIMScheduler.from_config(config)
    scheduler.set_timesteps(10)
    z = images()
    x = z
    with torch.no_grad():
        for k in scheduler.timesteps:
            x = scheduler.step(net(x, k).sample, k, x).prev_sample

    score = DiffusersScore(net, scheduler)
    score.process = OnSteps(scheduler)
    latents = z / score.process.std(score.process.t_max).float()
    ours = sample(score, latents, sampler=DDIM(steps=10)).x
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_default_sampling_stays_within_the_chain(folder):
    samples = sample(DiffusersScore.from_pretrained(folder), num=2, sampler=DDIM(steps=8))
    assert samples.x.shape == (2, 1, 8, 8) and float(samples.times[-2]) == pytest.approx(1.0)


def test_every_layout_of_folders(folder, tmp_path):
    wanted = DiffusersScore.from_pretrained(folder)(images(), 9.0)

    def same(*arguments, **keywords):
        score = DiffusersScore.from_pretrained(*arguments, **keywords)
        assert torch.equal(score(images(), 9.0), wanted)

    same(str(folder))
    same(folder / "unet", scheduler=folder / "scheduler")
    same(folder / "unet", scheduler=folder)
    net = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    net.save_pretrained(tmp_path / "pair" / "unet_ema")
    scheduler.save_pretrained(tmp_path / "pair" / "scheduler")
    same(tmp_path / "pair", unet="unet_ema")
    net.save_pretrained(tmp_path / "flat")
    scheduler.save_pretrained(tmp_path / "flat")
    same(tmp_path / "flat")


def test_learned_variance_from_a_folder(tmp_path):
    scheduler = diffusers.DDPMScheduler(**CHAIN, variance_type="learned_range")
    diffusers.DDPMPipeline(unet(out_channels=2), scheduler).save_pretrained(tmp_path)
    score = DiffusersScore.from_pretrained(tmp_path)
    check_score(score, x=images(), t=[1.0, 60.0])


def test_classes_are_conditions():
    scheduler = diffusers.DDPMScheduler(**CHAIN)
    score = DiffusersScore(unet(num_class_embeds=3), scheduler)
    y = torch.tensor([0, 2, 1])
    check_score(score, x=images(), t=[5.0], y=y)
    assert not torch.allclose(score(images(), 5.0, y), score(images(), 5.0, y.roll(1)))
    with pytest.raises(ValueError, match="y must be given"):
        score(images(), 5.0)
    with pytest.raises(ValueError, match="one condition a point, 3 in all"):
        score(images(), 5.0, y[:2])
    with pytest.raises(ValueError, match="not conditional"):
        DiffusersScore(unet(), scheduler)(images(), 5.0, y)


def test_learned_embeddings_need_integers():
    scheduler = diffusers.DDPMScheduler(**CHAIN)
    net = unet(time_embedding_type="learned", num_train_timesteps=100)
    with pytest.raises(ValueError, match="pass timesteps='nearest'"):
        DiffusersScore(net, scheduler)
    check_score(DiffusersScore(net, scheduler, timesteps="nearest"), x=images(), t=[1.0, 33.0])
    with pytest.raises(ValueError, match="'fourier'"):
        DiffusersScore(unet(time_embedding_type="fourier"), scheduler)
    with pytest.raises(ValueError, match="must be 'fractional' or 'nearest', got 'floor'"):
        DiffusersScore(net, scheduler, timesteps="floor")


def test_gradients_reach_the_points(folder):
    x = images().requires_grad_()
    DiffusersScore.from_pretrained(folder)(x, 5.0).sum().backward()
    assert float(x.grad.abs().sum()) > 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (object(), "must be a scheduler of diffusers such as"),
        (diffusers.ScoreSdeVeScheduler(), "ScoreSdeVeScheduler is not supported"),
        (
            diffusers.KDPM2DiscreteScheduler(num_train_timesteps=4),
            "KDPM2DiscreteScheduler is not supported",
        ),
        (
            diffusers.EulerDiscreteScheduler(
                timestep_type="continuous", prediction_type="v_prediction"
            ),
            "timestep_type='continuous' is not supported",
        ),
        (
            diffusers.DDPMScheduler(prediction_type="velocity"),
            "'epsilon', 'sample', 'v_prediction', got 'velocity'",
        ),
        (diffusers.DDIMScheduler(rescale_betas_zero_snr=True), "noise says nothing about"),
    ],
)
def test_schedulers_that_are_refused(scheduler, message):
    with pytest.raises(ValueError, match=message):
        DiffusersScore(nn.Identity(), scheduler)


def test_exclude_is_refused(folder):
    score = DiffusersScore.from_pretrained(folder)
    with pytest.raises(ValueError, match="leave-one-out"):
        score.residual(images(), 5.0, exclude=torch.zeros(3, dtype=torch.int64))


def copied(folder, tmp_path):
    for path in folder.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


def test_bad_folders(folder, tmp_path):
    def fails(kind, message, **keywords):
        with pytest.raises(kind, match=message) as caught:
            DiffusersScore.from_pretrained(tmp_path / "bad", **keywords)
        assert "\n" not in str(caught.value)

    fails(FileNotFoundError, "there is no folder .*nothing is downloaded")
    bad = tmp_path / "bad"
    bad.mkdir()
    fails(ValueError, "has no network: expected unet/config.json")
    copied(folder, bad)
    weights = bad / "unet" / "diffusion_pytorch_model.safetensors"
    config = bad / "unet" / "config.json"

    (bad / "scheduler" / "scheduler_config.json").rename(bad / "kept.json")
    fails(ValueError, "has no scheduler: expected scheduler/scheduler_config.json")
    good = (bad / "kept.json").read_text()
    at = bad / "scheduler" / "scheduler_config.json"
    at.write_text(good.replace("DDPMScheduler", "UNet2DModel"))
    fails(ValueError, "scheduler in .* must be one of diffusers .*, got 'UNet2DModel'")
    at.write_text(good.replace('"linear"', '"steep"'))
    fails(ValueError, "cannot be loaded as a DDPMScheduler: steep is not")
    at.write_text(good)

    kept = weights.read_bytes()
    weights.write_bytes(kept[: len(kept) // 2])
    fails(ValueError, "cannot be loaded as a UNet2DModel")
    weights.rename(weights.with_suffix(".bin"))
    fails(ValueError, "no .safetensors weights, and other formats are pickles")
    from safetensors.torch import load, save_file

    state = load(kept)
    state.pop("conv_in.bias")
    save_file(state, weights, metadata={"format": "pt"})
    fails(ValueError, "lacks 1 weights of its network, such as 'conv_in.bias'|cannot be loaded")
    weights.write_bytes(kept)

    text = config.read_text()
    config.write_text(text.replace("UNet2DModel", "UNet2DConditionModel"))
    fails(ValueError, "must be a UNet2DModel, got 'UNet2DConditionModel'")
    config.write_text("[]")
    fails(ValueError, "must hold a JSON object")
    config.write_text("{")
    fails(ValueError, "not valid JSON")
    config.write_text(text)
    DiffusersScore.from_pretrained(bad)


def test_without_diffusers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'memdiff\[diffusers\]'"):
        DiffusersScore.from_pretrained(folder)
