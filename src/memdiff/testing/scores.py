"""Conformance suite of a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from memdiff.scores.base import Score, per_sample
from memdiff.testing.requirement import require, require_close

__all__ = ["check_score"]


def check_score(
    score: Score,
    *,
    x: Tensor,
    t: float | Sequence[float],
    y: Tensor | None = None,
    tolerance: float = 1e-5,
) -> None:
    r"""Check that a score is what :class:`~memdiff.scores.base.Score` says a score is.

    - shape, dtype (float32 and float64) and device of ``x`` are kept, and values are finite;
    - a point's score does not depend on the other points, their times or their conditions: row
      by row equals the batch, a scalar time equals a time for each point;
    - two calls agree, and change neither the arguments nor the state of the module;
    - ``residual`` is :math:`\sigma^2 s`, ``denoise`` is :math:`(x + \sigma^2 s)/m`, ``noise`` is
      :math:`-\sigma s`;
    - float32 and float64 input agree, and so do calls with and without gradients.

    Args:
        score: The score.
        x: Points with shape ``(B, *S)``, ``B`` at least 2, not all the same.
        t: A time, or several, at which :math:`\sigma > 0` and the score is finite.
        y: Conditions with shape ``(B,)`` or ``(B, k)``, for a conditional score.
        tolerance: Differences allowed, in units of the largest value in ``x`` and the residual:
            what float32 arithmetic inside a score costs.

    Raises:
        AssertionError: Naming the first thing that is wrong.
        ValueError: If ``x`` or ``t`` do not allow the checks.

    Example:
        >>> from memdiff.processes import VP
        >>> from memdiff.scores.base import expand_time, per_sample
        >>> class StandardNormal(Score):
        ...     def forward(self, x, t, y=None):
        ...         time = expand_time(t, x)
        ...         variance = self.process.scale(time) ** 2 + self.process.std(time) ** 2
        ...         return (-x / per_sample(variance, x)).to(x.dtype)
        >>> check_score(StandardNormal(VP()), x=torch.randn(4, 3), t=[0.01, 0.5])
    """
    if not isinstance(score, Score):
        raise ValueError(f"score must be a memdiff.scores.base.Score, got {type(score).__name__}.")
    if x.ndim < 1 or x.shape[0] < 2 or not x.is_floating_point():
        raise ValueError(
            f"x must be floating with shape (B, *S) and B at least 2, "
            f"got {x.dtype} with shape {tuple(x.shape)}."
        )
    for time in (t,) if isinstance(t, int | float) else tuple(t):
        if not float(score.process.std(time)) > 0.0:
            raise ValueError(f"t must be positive, got {time}.")
        _check_at(score, x, float(time), y, tolerance)


def _check_at(score: Score, x: Tensor, time: float, y: Tensor | None, tolerance: float) -> None:
    name = type(score).__name__
    for dtype in (torch.float32, torch.float64):
        _check_output(score, x.to(dtype), time, y)

    points = x.to(torch.float32).to(torch.float64)  # representable in both dtypes
    sigma = float(score.process.std(time))
    with torch.no_grad():
        value = score(points, time, y)
        residual = score.residual(points, time, y)
    allowed = tolerance * (float(points.abs().max()) + float(residual.abs().max()))

    def close(actual: Tensor, expected: Tensor, claim: str, unit: float = 1.0) -> None:
        require_close(actual, expected, allowed * unit, f"{name} at t = {time:g}: {claim}")

    per_score = sigma**-2
    _check_purity(score, points, time, y)
    close(score(points, time, y).detach(), value, "with gradients must equal without", per_score)
    close(residual, sigma**2 * value, "residual must be sigma^2 times the score")
    m = float(score.process.scale(time))
    with torch.no_grad():
        close(
            score.denoise(points, time, y),
            (points + sigma**2 * value) / m,
            "denoise must be (x + sigma^2 s) / m",
            1.0 / m,
        )
        close(score.noise(points, time, y), -sigma * value, "noise must be -sigma s", 1.0 / sigma)
        single = points.to(torch.float32)
        close(score(single, time, y), value, "float32 input must agree with float64", per_score)
        for kind in (torch.tensor(time, dtype=torch.float64), points.new_full((len(x),), time)):
            close(
                score(points, kind, y),
                value,
                f"a time with shape {tuple(kind.shape)} must act as a Python number",
                per_score,
            )
        times = time * torch.linspace(1.0, 0.8, len(x), dtype=torch.float64, device=x.device)
        batch = score.residual(points, times, y)
        rows = [
            score.residual(points[i : i + 1], float(times[i]), None if y is None else y[i : i + 1])
            for i in range(len(x))
        ]
        close(batch, torch.cat(rows), "row by row must equal the batch, a time for each point")
        variance = per_sample(score.process.std(times) ** 2, points)
        close(
            score(points, times, y) * variance,
            batch,
            "residual must be sigma^2 times the score, a time for each point",
        )


def _check_output(score: Score, x: Tensor, time: float, y: Tensor | None) -> None:
    name = type(score).__name__
    quantities: dict[str, Callable[..., Tensor]] = {
        name: score,
        f"{name}.residual": score.residual,
        f"{name}.denoise": score.denoise,
        f"{name}.noise": score.noise,
    }
    for label, quantity in quantities.items():
        with torch.no_grad():
            result = quantity(x, time, y)
        for attribute in ("shape", "dtype", "device"):
            wanted, got = getattr(x, attribute), getattr(result, attribute)
            require(
                wanted == got, f"{label} must return the {attribute} of x, {wanted}, got {got}."
            )
        require(
            bool(torch.isfinite(result).all()),
            f"{label} must be finite at t = {time:g}, got "
            f"{int((~torch.isfinite(result)).sum())} values that are NaN or infinite.",
        )


def _check_purity(score: Score, x: Tensor, time: float, y: Tensor | None) -> None:
    name = type(score).__name__
    times = x.new_full((len(x),), time)
    arguments = [tensor for tensor in (x, times, y) if tensor is not None]
    before = [tensor.clone() for tensor in arguments]
    state = {key: value.clone() for key, value in score.state_dict().items()}
    with torch.no_grad():
        first = score(x, times, y)
        kept = first.clone()
        second = score(x, times, y)
    for argument, original in zip(arguments, before, strict=True):
        require(torch.equal(argument, original), f"{name} must not change its arguments.")
    for key, value in score.state_dict().items():
        require(
            torch.equal(value, state[key]),
            f"{name} must not change its own state, but {key} changed during a call.",
        )
    require(
        torch.equal(first, kept) and torch.equal(first, second),
        f"{name} must return the same score for the same arguments, but two calls differ.",
    )
