"""The exact empirical score: oracles of the theory (section 3)."""

import math

import pytest
import torch

from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.scores import EmpiricalScore

PROCESSES = [VE(), VP(), EDM(), LinearInterpolant()]


def naive_log_density(x, t, data, process, log_prior):
    """log sum_n pi_n N(x; m x_n, sigma^2 I), written out."""
    m, sigma = process.scale(t), process.std(t)
    squared = ((x[:, None] - m * data[None]) ** 2).flatten(2).sum(2)
    dim = data[0].numel()
    log_gauss = -squared / (2 * sigma**2) - 0.5 * dim * math.log(2 * math.pi * float(sigma) ** 2)
    return torch.logsumexp(log_prior + log_gauss, 1)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("num", [7, 1500])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.5])
def test_score_is_the_gradient_of_the_log_density(process, num, ratio):
    """Catches a wrong scale m, a missing prior weight, a wrong normalisation."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(num, 2, 3, generator=generator, dtype=torch.float64)
    prior = torch.rand(num, generator=generator, dtype=torch.float64) + 0.1
    t = float(process.time_at_ratio(ratio))
    x = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    value = naive_log_density(x, t, data, process, (prior / prior.sum()).log())
    (gradient,) = torch.autograd.grad(value.sum(), x)
    score = EmpiricalScore(data, process, weights=prior)
    with torch.no_grad():
        torch.testing.assert_close(score(x, t), gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(score.log_density(x, t), value.detach(), rtol=1e-10, atol=1e-9)


def test_single_point():
    """N = 1: the score is -(x - m x_1) / sigma^2 at every noise level."""
    data = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    for process in PROCESSES:
        for ratio in (1e-6, 1e-2, 1.0):
            t = float(process.time_at_ratio(ratio))
            expected = -(x - process.scale(t) * data) / process.std(t) ** 2
            torch.testing.assert_close(EmpiricalScore(data, process)(x, t), expected)


@pytest.mark.parametrize("repeats", [2, 700])
def test_repeated_points_act_as_weights(repeats):
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    repeated = torch.cat([data, data[:1].expand(repeats, 5)])
    weights = torch.tensor([1.0 + repeats, 1.0, 1.0, 1.0])
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    for t in (0.05, 0.5):
        one = EmpiricalScore(repeated, VP())(x, t)
        other = EmpiricalScore(data, VP(), weights=weights)(x, t)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_many_gaussian_points_tend_to_the_gaussian_score():
    """N to infinity: s_N tends to -(m^2 Sigma + sigma^2 I)^-1 (x - m mu)."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.5]], dtype=torch.float64)
    data = mean + torch.randn(200_000, 2, generator=generator, dtype=torch.float64) @ factor.T
    process, t = VP(), 0.7
    m, sigma = process.scale(t), process.std(t)
    covariance = m**2 * factor @ factor.T + sigma**2 * torch.eye(2, dtype=torch.float64)
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    expected = -torch.linalg.solve(covariance, (x - m * mean).T).T
    error = (EmpiricalScore(data, process)(x, t) - expected).norm(dim=1)
    assert error.median() < 0.02


def test_posterior_statistics_match_the_weights():
    generator = torch.Generator().manual_seed(3)
    data = torch.randn(1500, 6, generator=generator, dtype=torch.float64)
    score = EmpiricalScore(data, VE())
    x = data[:8] + 0.3 * torch.randn(8, 6, generator=generator, dtype=torch.float64)
    for t in (1e-4, 0.05, 0.6):
        weights = score.weights(x, t)
        posterior = score.posterior(x, t)
        torch.testing.assert_close(weights.sum(1), torch.ones(8, dtype=torch.float64))
        entropy = torch.special.entr(weights).sum(1)
        torch.testing.assert_close(posterior.entropy, entropy, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(posterior.effective_points, entropy.exp())
        torch.testing.assert_close(posterior.top_weight, weights.max(1).values)
        torch.testing.assert_close(posterior.top_index, weights.argmax(1))
        torch.testing.assert_close(posterior.mean, weights @ data, rtol=1e-10, atol=1e-11)
        m, sigma = score.process.scale(t), score.process.std(t)
        torch.testing.assert_close(posterior.residual, score(x, t) * sigma**2)
        torch.testing.assert_close(score.denoise(x, t), (x + posterior.residual) / m)
        assert (posterior.error_bound >= (posterior.mean - weights @ data).norm(dim=1)).all()


@pytest.mark.parametrize("num", [40, 1200])
def test_leave_one_out_equals_deleting_the_point(num):
    generator = torch.Generator().manual_seed(4)
    data = torch.randn(num, 8, generator=generator)
    index = torch.tensor([0, 13, num - 1])
    x = data[index] + 0.2 * torch.randn(3, 8, generator=generator)
    full = EmpiricalScore(data, EDM())
    posterior = full.posterior(x, 0.2, exclude=index)
    for i, n in enumerate(index.tolist()):
        rest = EmpiricalScore(torch.cat([data[:n], data[n + 1 :]]), EDM())
        torch.testing.assert_close(posterior.mean[i], rest.denoise(x[i : i + 1], 0.2)[0])
        # The remaining points keep their weight 1/N: the density is (N-1)/N of the other.
        expected = rest.log_density(x[i : i + 1], 0.2)[0] + math.log((num - 1) / num)
        torch.testing.assert_close(posterior.log_density[i], expected, rtol=1e-5, atol=1e-4)


class TestConditions:
    def setup_method(self):
        generator = torch.Generator().manual_seed(5)
        self.data = torch.randn(30, 4, generator=generator, dtype=torch.float64)
        self.x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        self.labels = torch.arange(30) % 3
        self.vectors = torch.randn(30, 2, generator=generator, dtype=torch.float64)

    def test_a_label_uses_only_the_points_that_share_it(self):
        score = EmpiricalScore(self.data, VE(), conditions=self.labels)
        y = torch.tensor([0, 1, 2, 2, 1, 0])
        for label in range(3):
            alone = EmpiricalScore(self.data[self.labels == label], VE())
            rows = y == label
            torch.testing.assert_close(score(self.x, 0.4, y)[rows], alone(self.x[rows], 0.4))

    def test_distinct_conditions_return_the_paired_point(self):
        score = EmpiricalScore(self.data, VP(), conditions=self.vectors)
        mean = score.denoise(self.x, 0.9, self.vectors[:6])
        torch.testing.assert_close(mean, self.data[:6])

    def test_kernel_limits(self):
        """h to 0 on a training condition is the minimiser, h to infinity the unconditional."""
        y = self.vectors[:6]
        exact = EmpiricalScore(self.data, VE(), conditions=self.vectors)(self.x, 0.4, y)
        for bandwidth, expected in [
            (1e-4, exact),
            (1e6, EmpiricalScore(self.data, VE())(self.x, 0.4)),
        ]:
            score = EmpiricalScore(
                self.data, VE(), conditions=self.vectors, condition_bandwidth=bandwidth
            )
            torch.testing.assert_close(score(self.x, 0.4, y), expected)

    def test_kernel_weights_are_written_out(self):
        score = EmpiricalScore(self.data, VE(), conditions=self.vectors, condition_bandwidth=0.7)
        y = self.vectors[3:9] + 0.1
        sigma = VE().std(0.4)
        logits = -(torch.cdist(self.x, self.data) ** 2) / (2 * sigma**2)
        logits = logits - torch.cdist(y, self.vectors) ** 2 / (2 * 0.7**2)
        torch.testing.assert_close(score.weights(self.x, 0.4, y), logits.softmax(1))
        torch.testing.assert_close(score.denoise(self.x, 0.4, y), logits.softmax(1) @ self.data)

    def test_large_problem_takes_the_screened_route(self):
        """Kernel terms in the screened and dense routes, which the small cases do not reach."""
        generator = torch.Generator().manual_seed(6)
        data = torch.randn(3000, 10, generator=generator)
        y_data = torch.randn(3000, 2, generator=generator)
        score = EmpiricalScore(data, VE(), conditions=y_data, condition_bandwidth=0.3)
        for t in (0.001, 0.1, 1.0):
            x = data[:5] + float(VE().std(t)) * torch.randn(5, 10, generator=generator)
            expected = score.weights(x, t, y_data[:5]) @ data.double()
            mean = score.posterior(x.double(), t, y_data[:5]).mean
            torch.testing.assert_close(mean, expected, rtol=1e-5, atol=2e-6)

    def test_errors_are_sentences(self):
        labelled = EmpiricalScore(self.data, VE(), conditions=self.labels)
        with pytest.raises(ValueError, match="condition 7, which no training point has"):
            labelled(self.x, 0.5, torch.full((6,), 7))
        with pytest.raises(ValueError, match=r"y must have shape \(6,\)"):
            labelled(self.x, 0.5, torch.zeros(3))
        with pytest.raises(ValueError, match="no conditions"):
            EmpiricalScore(self.data, VE())(self.x, 0.5, torch.zeros(6))
        with pytest.raises(ValueError, match="labels have no distance"):
            EmpiricalScore(self.data, VE(), conditions=self.labels, condition_bandwidth=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autograd_gives_the_exact_jacobian(dtype):
    """J = m^2 Cov_w / sigma^4 - I / sigma^2 by backward, against finite differences."""
    generator = torch.Generator().manual_seed(7)
    data = torch.randn(1500, 5, generator=generator).to(dtype)
    score = EmpiricalScore(data, VP())
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    t = 0.6
    jacobian = torch.autograd.functional.jacobian(lambda x: score(x, t).sum(0), x).transpose(0, 1)
    step = 1e-4
    exact = EmpiricalScore(data.double(), VP())
    for j in range(5):
        shift = torch.zeros(5, dtype=torch.float64)
        shift[j] = step
        difference = (exact(x + shift, t) - exact(x - shift, t)) / (2 * step)
        torch.testing.assert_close(jacobian[:, :, j], difference, rtol=1e-4, atol=1e-5)


def test_dtype_follows_the_query_and_modules_move():
    data = torch.randn(50, 3, generator=torch.Generator().manual_seed(8))
    score = EmpiricalScore(data, VE())
    x = data[:4] + 0.1
    assert score(x, 0.3).dtype == torch.float32
    assert score(x.double(), torch.full((4,), 0.3)).dtype == torch.float64
    single = score(x.double(), 0.3)
    score.double()
    assert score.data.dtype == torch.float64
    torch.testing.assert_close(score(x.double(), 0.3), single, rtol=1e-5, atol=1e-5)
    assert set(score.state_dict()) == {"data", "log_prior"}


def test_temperature_divides_the_logits():
    generator = torch.Generator().manual_seed(9)
    data = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    sigma = VE().std(0.3)
    logits = -(torch.cdist(x, data) ** 2) / (2 * sigma**2 * 4.0)
    residual = EmpiricalScore(data, VE()).residual(x, 0.3, temperature=4.0)
    torch.testing.assert_close(residual, logits.softmax(1) @ data - x)


def test_bad_input_is_one_sentence():
    data = torch.randn(5, 3, generator=torch.Generator().manual_seed(10))
    broken = data.clone()
    broken[2, 1] = math.nan
    score = EmpiricalScore(data, VE())
    cases = [
        (lambda: EmpiricalScore(broken, VE()), "first at index 2"),
        (lambda: EmpiricalScore(data[:0], VE()), "at least one point"),
        (lambda: EmpiricalScore(data, VE(), weights=torch.ones(4)), r"shape \(5,\)"),
        (lambda: EmpiricalScore(data, VE(), weights=-torch.ones(5)), "non-negative"),
        (lambda: score(data[:, :2], 0.5), "as the training data"),
        (lambda: score(data, torch.ones(3)), "one time a point"),
        (lambda: score.residual(data, 0.5, exclude=torch.full((5,), 9)), "exclude must lie in"),
        (lambda: score.residual(data, 0.5, temperature=0.0), "temperature must be positive"),
        (lambda: EmpiricalScore(data, VE(), memory_limit=8).weights(data, 0.5), "memory_limit"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_error_bound_is_not_negative_where_a_total_rounds_below_one(monkeypatch):
    """1 - top weight is then a negative rounding error, in front of a factor that is huge."""
    score = EmpiricalScore(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), VE())
    engine = score.engine

    def rounded(*arguments, **options):
        part = engine(*arguments, **options)
        part.total = part.total * (1 - 1e-9)
        part.logit_error = torch.full_like(part.logit_error, 20.0)
        return part

    monkeypatch.setattr(score.kernels, "_whole", rounded)
    rounded.radius = engine.radius
    found = score.posterior(torch.tensor([[1.0, 0.1]]), 1e-6)
    assert found.error_bound.min() >= 0.0 and found.top_weight.max() <= 1.0
