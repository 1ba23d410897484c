"""Gaussian and mixture scores against closed forms, autograd and torch.distributions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
)

from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.scores import population
from memdiff.scores.population import GaussianMixtureScore, GaussianScore

PROCESSES = [VE(), VP(), EDM(), LinearInterpolant()]


def covariance(d, seed, rank=None):
    factor = torch.randn(
        d, rank or d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return factor @ factor.T / d


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(process, components=3, d=4, kind="full", seed=0):
    means = 2.0 * randn(components, d, seed=seed)
    weights = torch.arange(1.0, components + 1, dtype=torch.float64)
    covariances = {
        "full": lambda: torch.stack([covariance(d, seed + k) for k in range(components)]),
        "shared": lambda: covariance(d, seed),
        "diagonal": lambda: randn(components, d, seed=seed + 9).abs(),
        "scalar": lambda: 0.1 + torch.arange(components, dtype=torch.float64),
        "number": lambda: 0.3,
    }[kind]()
    return GaussianMixtureScore(weights, means, covariances, process)


def full_covariances(law):
    k, d = law.num_components, law.means[0].numel()
    values = law.eigenvalues.expand(k, d)
    if law.eigenvectors is None:
        return torch.diag_embed(values)
    basis = law.eigenvectors.expand(k, d, d)
    return basis @ torch.diag_embed(values) @ basis.mT


def oracle(law, t):
    m, variance = law.process.scale(t), law.process.std(t) ** 2
    d = law.means[0].numel()
    noised = m**2 * full_covariances(law) + variance * torch.eye(d, dtype=torch.float64)
    return MixtureSameFamily(
        Categorical(law.log_weights.exp()),
        MultivariateNormal(m * law.means.flatten(1), noised),
    )


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("kind", ["full", "shared", "diagonal", "scalar", "number"])
def test_density_and_score_equal_torch_distributions(process, kind):
    law = mixture(process, kind=kind)
    for fraction in (0.01, 0.3, 0.9):
        t = fraction * process.t_max
        x = (2.0 * randn(6, 4, seed=5)).requires_grad_()
        expected = oracle(law, t).log_prob(x)
        torch.testing.assert_close(law.log_density(x, t), expected, rtol=1e-10, atol=1e-10)
        (gradient,) = torch.autograd.grad(expected.sum(), x)
        torch.testing.assert_close(law(x, t), gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_score_is_the_gradient_of_the_log_density(process):
    law = mixture(process)
    t = process.t_max * torch.linspace(0.05, 1.0, 6, dtype=torch.float64)
    x = randn(6, 4, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_density(x, t).sum(), x)
    torch.testing.assert_close(law(x, t), gradient, rtol=1e-10, atol=1e-12)
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    (gradient,) = torch.autograd.grad(law.log_density(x, t, label).sum(), x)
    torch.testing.assert_close(law(x, t, label), gradient, rtol=1e-10, atol=1e-12)


def test_score_is_differentiable_with_the_jacobian_of_the_closed_form():
    process, sigma2 = VE(), float(VE().std(0.4)) ** 2
    full = covariance(3, 2)
    law = GaussianScore(torch.zeros(3, dtype=torch.float64), full, process)
    jacobian = torch.autograd.functional.jacobian(lambda x: law(x[None], 0.4)[0], randn(3, seed=4))
    expected = -torch.linalg.inv(full + sigma2 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(jacobian, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_gaussian_is_a_mixture_of_one_and_of_equal_components(process):
    mean, full = randn(4, seed=3), covariance(4, 3)
    one = GaussianScore(mean, full, process)
    several = GaussianMixtureScore([0.2, 0.8], mean.expand(2, 4), full.expand(2, 4, 4), process)
    x, t = randn(5, 4, seed=8), 0.4 * process.t_max
    for method in ("forward", "residual", "posterior_mean", "log_density"):
        torch.testing.assert_close(
            getattr(one, method)(x, t), getattr(several, method)(x, t), rtol=1e-12, atol=1e-12
        )
    m, variance = process.scale(t), process.std(t) ** 2
    noised = m**2 * full + variance * torch.eye(4, dtype=torch.float64)
    expected = -torch.linalg.solve(noised, (x - m * mean).T).T
    torch.testing.assert_close(one(x, t), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["full", "shared", "diagonal", "scalar"])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_residual_and_posterior_mean_agree_with_the_score(process, kind):
    law = mixture(process, kind=kind)
    x = 3.0 * randn(8, 4, seed=2)
    t = process.t_max * torch.linspace(0.02, 0.98, 8, dtype=torch.float64)
    m, sigma = process.scale(t)[:, None], process.std(t)[:, None]
    torch.testing.assert_close(law.residual(x, t), sigma**2 * law(x, t), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(
        m * law.posterior_mean(x, t) - x, law.residual(x, t), rtol=1e-9, atol=1e-11
    )
    torch.testing.assert_close(law.denoise(x, t), law.posterior_mean(x, t), rtol=0, atol=0)


def test_posterior_mean_is_the_regression_of_clean_on_noised_points():
    """Independent of the formula: E[(x0 - D) h(x)] = 0 for any h."""
    law = mixture(VP(), d=2)
    generator = torch.Generator().manual_seed(0)
    x0 = law.sample_data(100_000, generator)
    t = 0.6
    x = VP().scale(t) * x0 + VP().std(t) * torch.randn(
        x0.shape, generator=generator, dtype=torch.float64
    )
    error = x0 - law.posterior_mean(x, t)
    for h in (torch.ones_like(x), x, torch.sin(2.0 * x), x.flip(1)):
        moment = error * h
        z = moment.mean(dim=0) / (moment.std(dim=0) / math.sqrt(len(x)))
        assert z.abs().max() < 4.5


def test_posterior_mean_does_not_cancel_at_large_noise_in_float32():
    law = GaussianMixtureScore([0.5, 0.5], [[-1.0, 0.0], [3.0, 0.0]], [0.01, 0.01], EDM())
    x = 1e3 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    t = 1e3
    exact = law.posterior_mean(x.double(), t)
    assert ((law.denoise(x, t).double() - exact).norm(dim=1) / exact.norm(dim=1)).max() < 1e-6


@pytest.mark.parametrize("process", [VE(), VP()], ids=repr)
def test_probability_flow_is_the_closed_form_linear_flow(process):
    """x(t) - m mu = Q sqrt(C(t) / C(T)) Q^T (x(T) - m mu), by scipy's integrator."""
    full, mean = covariance(3, 1), randn(3, seed=6)
    law = GaussianScore(mean, full, process)
    start, end = process.t_max, 0.05
    x_start = randn(3, seed=7)

    def velocity(t, x):
        s = law(torch.as_tensor(x)[None], t)[0]
        f, g = float(process.drift(t)), float(process.diffusion(t))
        return f * x - 0.5 * g**2 * s.numpy()

    solution = solve_ivp(velocity, (start, end), x_start.numpy(), rtol=1e-9, atol=1e-11)
    values, basis = torch.linalg.eigh(full)

    def total(t):
        return process.scale(t) ** 2 * values + process.std(t) ** 2

    e = basis.T @ (x_start - process.scale(start) * mean)
    expected = process.scale(end) * mean + basis @ ((total(end) / total(start)).sqrt() * e)
    torch.testing.assert_close(torch.as_tensor(solution.y[:, -1]), expected, rtol=1e-6, atol=1e-7)


def test_singular_covariance_keeps_a_manifold():
    basis = torch.linalg.qr(randn(5, 5, seed=1)).Q
    variances = torch.tensor([2.0, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    law = GaussianScore(
        torch.zeros(5, dtype=torch.float64), basis @ torch.diag(variances) @ basis.T, VE()
    )
    assert (law.eigenvalues == 0).sum() == 3
    x = randn(4, 5, seed=2)
    normal = x @ basis[:, 2:] @ basis[:, 2:].T
    for ratio in (0.0, 1e-8, 1e-6):
        residual = law.residual(x, VE().time_at_ratio(ratio))
        torch.testing.assert_close(residual, -normal, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(law.denoise(x, 0.0), x - normal, rtol=1e-12, atol=1e-12)
    sigma = 0.3
    expected = -x @ basis @ torch.diag(1 / (variances + sigma**2)) @ basis.T
    torch.testing.assert_close(law(x, VE().time_at_ratio(sigma)), expected, rtol=1e-10, atol=1e-10)
    drawn = law.sample_data(50, torch.Generator().manual_seed(0))
    assert (drawn @ basis[:, 2:]).abs().max() < 1e-12
    with pytest.raises(ValueError, match="singular"):
        law.log_density(x, 0.0)


def test_zero_variance_mixture_is_the_empirical_score():
    points = randn(7, 3, seed=1)
    law = GaussianMixtureScore(torch.ones(7), points, 0.0, VP())
    x = randn(5, 3, seed=2)
    for ratio in (1e-6, 1e-2, 1.0, 3.0):
        t = VP().time_at_ratio(ratio)
        m, sigma = VP().scale(t), VP().std(t)
        distance = ((x[:, None] - m * points) ** 2).sum(-1)
        mean = torch.softmax(-distance / (2 * sigma**2), dim=1) @ points
        torch.testing.assert_close(law.residual(x, t), m * mean - x, rtol=1e-11, atol=1e-11)
    nearest = points[((x[:, None] - points) ** 2).sum(-1).argmin(1)]
    torch.testing.assert_close(law.denoise(x, 0.0), nearest, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(-6.0, 3.0), seed=st.integers(0, 50))
def test_finite_and_accurate_over_nine_decades_of_noise(exponent, seed):
    law = mixture(EDM(), seed=seed)
    sigma = 10.0**exponent
    x = randn(4, 4, seed=seed + 1) * (1.0 + sigma)
    reference = oracle(law, sigma)
    torch.testing.assert_close(
        law.log_density(x, sigma), reference.log_prob(x), rtol=1e-6, atol=1e-6
    )
    assert torch.isfinite(law(x, sigma)).all()
    assert torch.isfinite(law.residual(x, sigma)).all()
    total = law.responsibilities(x, sigma).sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_far_point_does_not_underflow():
    law = GaussianMixtureScore(torch.ones(2), [[0.0], [10.0]], [0.0, 0.0], EDM())
    x = torch.tensor([[1e4]], dtype=torch.float64)
    torch.testing.assert_close(law.residual(x, 1e-3), torch.tensor([[10.0 - 1e4]]).double())


def test_label_selects_the_component():
    law = mixture(VP())
    x, t = randn(6, 4, seed=3), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    label = torch.tensor([2, 0, 1, 1, 0, 2])
    for k in range(3):
        alone = GaussianScore(law.means[k], full_covariances(law)[k], VP())
        chosen = label == k
        for method in ("forward", "residual", "posterior_mean", "log_density"):
            torch.testing.assert_close(
                getattr(law, method)(x, t, label)[chosen],
                getattr(alone, method)(x[chosen], t[chosen]),
                rtol=1e-9,
                atol=1e-10,
            )


def test_image_shapes_and_dtypes():
    means = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    variances = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    law = GaussianMixtureScore(torch.ones(3), means, variances, VP())
    flat = GaussianMixtureScore(torch.ones(3), means.flatten(1), variances.flatten(1), VP())
    assert law.shape == (2, 4, 4)
    assert law.dtype == torch.float32
    x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for method in ("forward", "residual", "denoise"):
            value = getattr(law, method)(x.to(dtype), 0.5)
            assert value.dtype == dtype and value.shape == x.shape
            assert torch.equal(
                value.flatten(1), getattr(flat, method)(x.to(dtype).flatten(1), 0.5)
            )
        assert law.log_density(x.to(dtype), 0.5).dtype == torch.float64
    exact = law(x.double(), 0.5)
    assert ((law(x, 0.5).double() - exact).abs() / exact.abs()).max() < 1e-6
    assert law.sample_data(4, torch.Generator().manual_seed(0)).shape == (4, 2, 4, 4)
    assert law(x[:0], 0.5).shape == (0, 2, 4, 4)


@pytest.mark.parametrize("kind", ["full", "shared", "diagonal"])
def test_result_does_not_depend_on_the_block(monkeypatch, kind):
    law = mixture(VP(), kind=kind)
    x, t = randn(23, 4, seed=1), torch.linspace(0.01, 1.0, 23, dtype=torch.float64)
    label = torch.arange(23) % 3
    whole = law(x, t), law(x, t, label), law.log_density(x, t), law.denoise(x, t)
    monkeypatch.setattr(population, "_BLOCK_ELEMENTS", 60)
    blocks = law(x, t), law(x, t, label), law.log_density(x, t), law.denoise(x, t)
    for a, b in zip(whole, blocks, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", ["full", "shared", "diagonal", "scalar"])
def test_drawn_data_have_the_moments_of_each_component(kind):
    law = mixture(VE(), kind=kind)
    x, label = law.sample_data(60_000, torch.Generator().manual_seed(1), labels=True)
    share = torch.bincount(label).double() / len(x)
    torch.testing.assert_close(share, law.log_weights.exp(), rtol=0, atol=0.01)
    for k in range(3):
        points = x[label == k]
        expected = full_covariances(law)[k]
        spread = expected.diagonal().sqrt()
        error = (points.mean(0) - law.means[k]) / (spread / math.sqrt(len(points)))
        assert error.abs().max() < 4.5
        scale = spread[:, None] * spread
        assert ((points.T.cov() - expected) / scale).abs().max() < 6.0 / math.sqrt(len(points))
    again = law.sample_data(60_000, torch.Generator().manual_seed(1))
    assert torch.equal(again, x)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        (torch.ones(2), torch.zeros(3, 2), 1.0, r"weights must have shape \(3,\)"),
        (torch.tensor([1.0, -1.0]), torch.zeros(2, 3), 1.0, "non-negative"),
        (torch.zeros(2), torch.zeros(2, 3), 1.0, "not all zero"),
        (torch.tensor([1.0, math.nan]), torch.zeros(2, 3), 1.0, "weights must be finite"),
        (torch.ones(2), torch.zeros(2), 1.0, "means must have shape"),
        (torch.ones(2), torch.full((2, 3), math.inf), 1.0, "means must be finite"),
        (torch.ones(2), torch.zeros(2, 3), torch.ones(5), "covariances must have shape"),
        (torch.ones(2), torch.zeros(2, 2), torch.eye(2), "could be one full"),
        (torch.ones(2), torch.zeros(2, 3), -1.0, "variances must be non-negative"),
        (torch.ones(2), torch.zeros(2, 3), -torch.eye(3), "positive semi-definite"),
        (torch.ones(2), torch.zeros(2, 3), torch.ones(3, 3).tril(), "symmetric"),
    ],
)
def test_bad_arguments_are_named(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureScore(weights, means, covariances, VE())


def test_bad_inputs_are_named():
    law = mixture(VE())
    x = randn(3, 4)
    with pytest.raises(ValueError, match=r"shape \(B, 4\)"):
        law(x[:, :3], 0.5)
    with pytest.raises(ValueError, match="floating-point"):
        law(torch.zeros(3, 4, dtype=torch.int64), 0.5)
    with pytest.raises(ValueError, match="t must be a scalar"):
        law(x, torch.ones(2))
    with pytest.raises(ValueError, match=r"labels with shape \(3,\)"):
        law(x, 0.5, torch.zeros(3))
    with pytest.raises(ValueError, match="from 0 to 2"):
        law(x, 0.5, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="not a function of a training set"):
        law.residual(x, 0.5, exclude=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="num must be"):
        law.sample_data(0, torch.Generator())
