"""Our scores inside the schedulers of diffusers, against closed forms and our samplers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from memdiff.neighbors import nearest
from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.processes.tabulated import TabulatedVP
from memdiff.samplers import DDIM, Euler, sample
from memdiff.scores import EmpiricalScore, GaussianScore, Tikhonov
from memdiff.scores.diffusers import DiffusersScore, as_diffusers_model, convention_of

diffusers = pytest.importorskip("diffusers")

PREDICTIONS = ("epsilon", "sample", "v_prediction")
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
VARIANCE = torch.tensor([0.04, 1.0, 0.3], dtype=torch.float64)


def gaussian(process):
    return GaussianScore(MEAN, torch.diag(VARIANCE), process)


def noise(num=4, seed=0):
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(seed)).double()


def drive(model, scheduler, x, y=None, **step):
    """The loop of every pipeline."""
    for k in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, k)
        output = model(seen, k, class_labels=y).sample
        x = scheduler.step(output, k, x, **step).prev_sample
    return x


def chain(scheduler):
    return TabulatedVP(convention_of(scheduler).process.alphas_cumprod)


class OnSteps(TabulatedVP):
    """A chain whose sampling grid is a scheduler's."""

    def __init__(self, scheduler):
        super().__init__(scheduler.alphas_cumprod)
        self.grid = torch.cat([scheduler.timesteps.double() + 1, torch.zeros(1).double()])
        self.t_max = float(self.grid[0])

    def time_grid(self, steps, t_end=0.0):
        assert steps == len(self.grid) - 1 and t_end == 0.0
        return self.grid


class OnSigmas(EDM):
    """EDM's process on the noise levels of a scheduler."""

    def __init__(self, sigmas):
        super().__init__(sigma_min=float(sigmas[-2]), sigma_max=float(sigmas[0]))
        self.grid = sigmas.double()

    def time_grid(self, steps, t_end=0.0):
        assert steps == len(self.grid) - 1 and t_end == 0.0
        return self.grid


def flow(x, start, end):
    """Closed-form probability flow of the Gaussian in x/m, between ratios sigma/m."""
    return MEAN + (x - MEAN) * ((VARIANCE + end**2) / (VARIANCE + start**2)).sqrt()


# --- outputs ---


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_outputs_are_the_conditional_expectations(prediction):
    # For x = m x0 + sigma z with Gaussian x0: E[z | x], E[x0 | x] and E[m z - sigma x0 | x].
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction)
    model = as_diffusers_model(gaussian(chain(scheduler)), scheduler)
    x = noise()
    for k in (0, 10, 500, 999):
        alpha = scheduler.alphas_cumprod[k].double()
        m, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        gain = (x - m * MEAN) / (m**2 * VARIANCE + sigma**2)
        z, clean = sigma * gain, MEAN + m * VARIANCE * gain
        wanted = {"epsilon": z, "sample": clean, "v_prediction": m * z - sigma * clean}
        for timestep in (k, torch.tensor(k), torch.full((4,), k)):
            (output,) = model(x, timestep, return_dict=False)
            torch.testing.assert_close(output, wanted[prediction], rtol=1e-9, atol=1e-9)
            assert model(x.float(), timestep).sample.dtype == torch.float32


@pytest.mark.parametrize(
    "process", [VE(), VE(base=100.0, t_max=3.0), EDM(), VP(), LinearInterpolant()], ids=repr
)
def test_the_process_of_the_score_does_not_matter(process):
    scheduler = diffusers.DDIMScheduler()
    wanted = as_diffusers_model(gaussian(chain(scheduler)), scheduler)
    model = as_diffusers_model(gaussian(process), scheduler)
    x = noise()
    for k in (0, 10, 500, 999):
        torch.testing.assert_close(model(x, k).sample, wanted(x, k).sample, rtol=1e-8, atol=1e-8)


def test_times_for_each_point_and_fractional_times():
    scheduler = diffusers.DDIMScheduler()
    score = gaussian(chain(scheduler))
    model = as_diffusers_model(score, scheduler)
    x, k = noise(), torch.tensor([0.0, 3.5, 700.25, 999.0], dtype=torch.float64)
    torch.testing.assert_close(model(x, k).sample, score.noise(x, k + 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("prediction", "zero_snr"),
    # At zero terminal signal a prediction of the noise is refused (test_diffusers_score).
    [pair for pair in itertools.product(PREDICTIONS, (False, True)) if pair != ("epsilon", True)],
)
def test_there_and_back_is_the_score(prediction, zero_snr):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, rescale_betas_zero_snr=zero_snr
    )
    score = gaussian(chain(scheduler))
    back = DiffusersScore(as_diffusers_model(score, scheduler), scheduler)
    x = noise()
    for t in (1.0, 7.0, 120.5, 999.0):
        torch.testing.assert_close(back(x, t), score(x, t), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(back.denoise(x, t), score.denoise(x, t), rtol=1e-6, atol=1e-6)


def test_there_and_back_through_the_preconditioning():
    for prediction in ("epsilon", "v_prediction"):
        scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction)
        score = gaussian(EDM())
        back = DiffusersScore(as_diffusers_model(score, scheduler), scheduler)
        x = noise()
        for sigma in (0.002, 0.5, 80.0):
            # the label 0.25 log sigma is float32
            wanted = score.residual(x, sigma)
            torch.testing.assert_close(back.residual(x, sigma), wanted, rtol=3e-6, atol=3e-6)


# --- schedulers ---


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_is_our_ddim(prediction, spacing):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, timestep_spacing=spacing, clip_sample=False
    )
    scheduler.set_timesteps(25)
    theirs = drive(as_diffusers_model(gaussian(chain(scheduler)), scheduler), scheduler, noise())
    process = OnSteps(scheduler)
    latents = noise() / process.std(process.t_max)
    ours = sample(gaussian(process), latents, sampler=DDIM(steps=25)).x
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_ddim_from_zero_terminal_snr(prediction):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
    )
    scheduler.set_timesteps(200)
    x = drive(as_diffusers_model(gaussian(chain(scheduler)), scheduler), scheduler, noise())
    # From pure noise, x/sigma -> the flow that starts at infinite noise.
    torch.testing.assert_close(x, MEAN + noise() * VARIANCE.sqrt(), rtol=0, atol=0.02)


def test_ddim_follows_the_closed_form_flow_at_first_order():
    errors = []
    for steps in (50, 100):
        scheduler = diffusers.DDIMScheduler(
            timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False
        )
        scheduler.set_timesteps(steps)
        score = gaussian(chain(scheduler))
        x = drive(as_diffusers_model(score, scheduler), scheduler, noise())
        start = score.process.ratio(score.process.t_max)
        first, scale = score.process.ratio(1.0), score.process.scale(1.0)
        wanted = flow(noise() / score.process.scale(score.process.t_max), start, first)
        errors.append((x / scale - wanted).abs().max().item())
    assert errors[1] < 0.04 and 1.8 < errors[0] / errors[1] < 2.3


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm_is_ancestral_sampling_with_the_same_noise(prediction):
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(20)
    score = gaussian(chain(scheduler))
    theirs = drive(
        as_diffusers_model(score, scheduler),
        scheduler,
        noise(),
        generator=torch.Generator().manual_seed(7),
    )

    # x_s | x_t, x0 = D, for the Markov chain between the times t > s (Ho et al., equations 6, 7).
    generator = torch.Generator().manual_seed(7)
    x, process = noise(), score.process
    times = [float(k) + 1 for k in scheduler.timesteps]
    for t, s in zip(times, [*times[1:], 0.0], strict=True):
        m_t, m_s, v_t, v_s = (
            process.scale(t),
            process.scale(s),
            process.std(t) ** 2,
            process.std(s) ** 2,
        )
        step = m_t / m_s
        added = v_t - step**2 * v_s
        mean = m_s * added / v_t * score.denoise(x, t) + step * v_s / v_t * x
        z = 0.0
        if s > 0:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = mean + (added * v_s / v_t).sqrt() * z
    torch.testing.assert_close(theirs, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS[::2])
@pytest.mark.parametrize("karras", [False, True])
def test_euler_is_our_euler(prediction, karras):
    # Their levels interpolate sigma, and with Karras' levels the time steps are rounded: the
    # levels must be read from the scheduler.
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type=prediction, use_karras_sigmas=karras
    )
    scheduler.set_timesteps(25)
    start = noise() * scheduler.sigmas[0].double()
    theirs = drive(as_diffusers_model(gaussian(VE()), scheduler), scheduler, start)
    ours = sample(gaussian(OnSigmas(scheduler.sigmas)), noise(), sampler=Euler(steps=25)).x
    torch.testing.assert_close(theirs.double(), ours, rtol=0, atol=1e-5 * 160)
    if karras:
        torch.testing.assert_close(theirs.double(), ours, rtol=0, atol=2e-5)


def dpm_solver_plus_plus(score, ratios, x):
    """DPM-Solver++(2M) in x/m and rho = sigma/m (Lu et al., arXiv:2211.01095, algorithm 2)."""
    previous = None
    for i, (now, then) in enumerate(itertools.pairwise(ratios)):
        denoised = score.denoise(x, now)  # EDM: time is rho
        used = denoised
        if previous is not None and then > 0:
            r = math.log(ratios[i - 1] / now) / math.log(now / then)
            used = denoised + (denoised - previous) / (2 * r)
        x = x * (then / now) + (1 - then / now) * used
        previous = denoised
    return x


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver_agrees_with_its_formula(prediction, karras):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type=prediction,
        use_karras_sigmas=karras,
        lower_order_final=False,
    )
    scheduler.set_timesteps(25)
    theirs = drive(as_diffusers_model(gaussian(VP()), scheduler), scheduler, noise())
    ratios = [float(sigma) for sigma in scheduler.sigmas]
    ours = dpm_solver_plus_plus(gaussian(EDM()), ratios, noise() * math.hypot(ratios[0], 1.0))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_dpm_solver_follows_the_closed_form_flow_at_second_order():
    errors = []
    for steps in (50, 100, 200):
        scheduler = diffusers.DPMSolverMultistepScheduler(
            use_lu_lambdas=True, final_sigmas_type="sigma_min"
        )
        scheduler.set_timesteps(steps)
        x = drive(as_diffusers_model(gaussian(VE()), scheduler), scheduler, noise())
        start, end = scheduler.sigmas[0].double(), scheduler.sigmas[-1].double()
        x, begun = x * torch.hypot(end, torch.ones(())), noise() * torch.hypot(start, end**0)
        errors.append((x - flow(begun, start, end)).abs().max().item())
    assert errors[2] < 1e-3 and errors[0] / errors[1] > 3.2 and errors[1] / errors[2] > 3.2


def test_edm_euler_is_our_euler():
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(18)
    start = noise() * scheduler.sigmas[0].double()
    theirs = drive(as_diffusers_model(gaussian(EDM()), scheduler), scheduler, start)
    ours = sample(gaussian(OnSigmas(scheduler.sigmas)), noise(), sampler=Euler(steps=18)).x
    torch.testing.assert_close(theirs.double(), ours, rtol=0, atol=1e-4)


class OnFlowTimes(LinearInterpolant):
    """Flow matching on the times of a scheduler."""

    def __init__(self, times):
        super().__init__(t_max=float(times[0]))
        self.grid = times.double()

    def time_grid(self, steps, t_end=0.0):
        assert steps == len(self.grid) - 1 and t_end == 0.0
        return self.grid


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler_is_our_euler(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[0.9 - 0.04 * i for i in range(22)])
    model, x = as_diffusers_model(gaussian(VE()), scheduler), noise() * scheduler.sigmas[0]
    for k in scheduler.timesteps:
        x = scheduler.step(model(x, k).sample, k, x).prev_sample
    process = OnFlowTimes(scheduler.sigmas)
    ours = sample(gaussian(process), noise(), sampler=Euler(steps=22)).x
    torch.testing.assert_close(x.double(), ours, rtol=0, atol=1e-5)


# --- memorisation ---

DATA = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(3)).double() * 2 - 1
SCHEDULERS = {
    "DDIM": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "DDPM": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "Euler": (diffusers.EulerDiscreteScheduler, {}),
    "Euler ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "Heun": (diffusers.HeunDiscreteScheduler, {}),
    "DPM-Solver": (diffusers.DPMSolverMultistepScheduler, {}),
    "UniPC": (diffusers.UniPCMultistepScheduler, {}),
    "EDM Euler": (diffusers.EDMEulerScheduler, {}),
    "EDM DPM-Solver": (diffusers.EDMDPMSolverMultistepScheduler, {}),
}


def images(scheduler, num=8):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(num, *DATA.shape[1:], generator=generator).double()
    return z * float(scheduler.init_noise_sigma)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_empirical_score_ends_on_training_points(name):
    kind, settings = SCHEDULERS[name]
    scheduler = kind(**settings)
    scheduler.set_timesteps(30)
    score = EmpiricalScore(DATA, EDM())
    x = drive(as_diffusers_model(score, scheduler), scheduler, images(scheduler))
    found = nearest(x.double(), DATA, k=1)
    assert float(found.distances.max()) < 1e-4  # the last step is to sigma = 0: D is a point
    assert len(set(found.indices.flatten().tolist())) > 1


@pytest.mark.parametrize("name", ["DDIM", "Euler", "DPM-Solver"])
def test_stopping_at_the_first_step_leaves_its_noise(name):
    kind, settings = SCHEDULERS[name]
    stop = {"set_alpha_to_one": False} if name == "DDIM" else {"final_sigmas_type": "sigma_min"}
    spacing = {"timestep_spacing": "trailing"}
    scheduler = kind(**{**settings, **stop, **spacing})
    scheduler.set_timesteps(50)
    model = as_diffusers_model(EmpiricalScore(DATA, VE()), scheduler)
    x = drive(model, scheduler, images(scheduler))
    ratio = convention_of(scheduler).process.ratio(1.0)
    distance = nearest(x.double(), DATA, k=1).distances
    dimension = DATA[0].numel()
    assert float(distance.max()) < 3.0 * float(ratio) * dimension**0.5
    assert float(distance.min()) > 1e-4


@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_pipelines_run(name):
    kind, settings = SCHEDULERS[name]
    scheduler = kind(**settings)
    pipeline = getattr(diffusers, f"{name}Pipeline")(
        unet=as_diffusers_model(EmpiricalScore(DATA.float(), VP()), scheduler),
        scheduler=scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        batch_size=4,
        num_inference_steps=20,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    x = torch.as_tensor(made).permute(0, 3, 1, 2).double() * 2 - 1
    assert float(nearest(x, DATA, k=1).distances.max()) < 1e-5


def test_a_regularised_score_keeps_its_regulariser():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(100)
    exact = EmpiricalScore(DATA, VE())
    model = as_diffusers_model(Tikhonov(exact, 0.05), scheduler)
    distance = nearest(drive(model, scheduler, images(scheduler)), DATA, k=1).distances
    assert float(distance.min()) > 0.05


def test_conditions_are_class_labels():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    labels = torch.arange(6)
    score = EmpiricalScore(DATA, VE(), conditions=labels)
    wanted = torch.tensor([3, 0, 5, 3, 1, 1, 2, 4])
    x = drive(as_diffusers_model(score, scheduler), scheduler, images(scheduler), y=wanted)
    torch.testing.assert_close(x, DATA[wanted], rtol=0, atol=1e-6)


def test_scores_without_image_shape_have_no_channels():
    model = as_diffusers_model(gaussian(VE()), diffusers.DDIMScheduler())
    assert model.config.in_channels is None and model.config.sample_size is None
    assert model.dtype == torch.float64 and model.device == torch.device("cpu")
