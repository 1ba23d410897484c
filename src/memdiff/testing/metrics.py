"""Conformance suite of a metric."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Literal

import torch
from torch import Tensor

from memdiff.metrics import Interval, MetricResult
from memdiff.testing.requirement import require, require_close

__all__ = ["Suspicious", "check_metric"]

Metric = Callable[..., MetricResult]
Suspicious = Literal["low", "high"]


def check_metric(
    metric: Metric,
    *,
    generated: Tensor,
    train: Tensor,
    heldout: Tensor,
    value: Suspicious | None,
    scores: Suspicious | None,
    tolerance: float = 1e-5,
    fresh_tolerance: float | None = None,
    train_order: bool = True,
) -> None:
    """Check that a metric is what :mod:`memdiff.metrics` says a metric is.

    - arguments are keyword-only; the result is a frozen ``MetricResult``: a number, a float64
      score per sample, an interval that holds the number, and with held-out points a null;
    - two calls agree, and change neither their arguments nor a global random state;
    - the order of the samples does not matter (the scores go with them), nor that of train;
    - float32 and float64 input of the same values agree;
    - NaN, infinite values, no samples, and rows of another shape are refused by a ``ValueError``
      of one sentence that names the argument;
    - on fresh samples the value is where the null says;
    - on exact copies the value and the scores move to the end that is suspicious.

    Args:
        metric: A function of ``generated``, ``train`` and ``heldout``; bind further arguments with
            ``functools.partial``.
        generated: Fresh samples ``(M, *S)`` of the law of the data, ``M`` even, without ties.
        train: Training points ``(N, *S)``, ``N >= M / 2``.
        heldout: Held-out points ``(H, *S)``.
        value: The end of ``value`` that copies move to; None for a metric that is not about
            copies.
        scores: The end of ``scores`` where copies lie, or None likewise.
        tolerance: Differences allowed between results that must agree, relative to the largest
            finite size.
        fresh_tolerance: Allowed difference of value and null on fresh samples, relative to the
            null; by default their 95 % intervals must meet, or the one must hold the other.
        train_order: Whether the order of train must not matter; False for a metric that splits
            train at random, or starts an optimiser from random points of it.

    Raises:
        AssertionError: Naming the first thing that is wrong.
        ValueError: If the points do not allow the checks.

    Example:
        >>> from memdiff.metrics import authenticity
        >>> fresh, train, heldout = torch.randn(3, 100, 8)
        >>> sets = {"generated": fresh, "train": train, "heldout": heldout}
        >>> check_metric(authenticity, **sets, value="low", scores="low")
    """
    sets = {"generated": generated, "train": train, "heldout": heldout}
    for name, points in sets.items():
        if points.ndim < 2 or len(points) < 4 or not points.is_floating_point():
            raise ValueError(
                f"{name} must be floating with shape (N, *S) and N at least 4, got {points.dtype} "
                f"with shape {tuple(points.shape)}."
            )
    if len(generated) % 2 or 2 * len(train) < len(generated):
        raise ValueError(
            f"generated must be of even length and train at least half as long, got "
            f"{len(generated)} and {len(train)}."
        )
    sets = {key: points.to(torch.float32) for key, points in sets.items()}
    name = _name(metric)
    _check_signature(metric, name)
    _check_purity(metric, sets, name)
    fresh = metric(**sets)
    _check_result(fresh, len(generated), name)
    _check_invariance(metric, sets, fresh, tolerance, train_order, name)
    _check_refusals(metric, sets, name)
    _check_fresh(fresh, fresh_tolerance, name)
    _check_copies(metric, sets, fresh, value, scores, name)


def _name(metric: Metric) -> str:
    inner = metric
    while hasattr(inner, "func"):
        inner = inner.func
    return getattr(inner, "__name__", type(inner).__name__)


def _check_signature(metric: Metric, name: str) -> None:
    for parameter in inspect.signature(metric).parameters.values():
        require(
            parameter.kind is inspect.Parameter.KEYWORD_ONLY,
            f"{name} must take keyword-only arguments, but {parameter.name} can be given by "
            f"position: sets would be confused in silence.",
        )


def _numpy_state() -> bytes:
    import numpy as np

    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return bytes(state["key"].tobytes()) + str(state["pos"]).encode()


def _check_kind(result: MetricResult, name: str) -> None:
    require(
        isinstance(result, MetricResult),
        f"{name} must return a memdiff.metrics.MetricResult, got {type(result).__name__}.",
    )
    parameters = getattr(type(result), "__dataclass_params__", None)
    require(
        is_dataclass(result) and parameters is not None and parameters.frozen,
        f"{name} must return a frozen dataclass, got {type(result).__name__}.",
    )


def _check_result(result: MetricResult, samples: int, name: str) -> None:
    require(
        isinstance(result.value, float) and not math.isnan(result.value),
        f"{name} must have a value that is a number, got {result.value!r}.",
    )
    require(
        result.scores.shape == (samples,) and result.scores.dtype == torch.float64,
        f"{name} must have float64 scores with shape ({samples},), got {result.scores.dtype} "
        f"with shape {tuple(result.scores.shape)}.",
    )
    if result.interval is not None:
        require(
            result.value in result.interval,
            f"{name} must have a value within its interval, got {result.value:g} and "
            f"[{result.interval.low:g}, {result.interval.high:g}].",
        )
    require(result.null is not None, f"{name} must have a null where held-out points are given.")


def _check_purity(metric: Metric, sets: Mapping[str, Tensor], name: str) -> None:
    before = {key: points.clone() for key, points in sets.items()}
    torch_state, numpy_state = torch.get_rng_state(), _numpy_state()
    first, second = metric(**sets), metric(**sets)
    _check_kind(first, name)
    for key, points in sets.items():
        require(torch.equal(points, before[key]), f"{name} must not change {key}.")
    require(
        torch.equal(torch_state, torch.get_rng_state()) and numpy_state == _numpy_state(),
        f"{name} must draw from a generator of its own, but the global random state changed.",
    )
    require(
        first.value == second.value
        and first.interval == second.interval
        and first.null == second.null
        and torch.equal(first.scores.nan_to_num(), second.scores.nan_to_num()),
        f"{name} must return the same result for the same arguments, but two calls differ.",
    )


def _check_invariance(
    metric: Metric,
    sets: Mapping[str, Tensor],
    fresh: MetricResult,
    tolerance: float,
    train_order: bool,
    name: str,
) -> None:
    def agree(other: MetricResult, wanted: Tensor, claim: str) -> None:
        values = torch.tensor([fresh.value, other.value], dtype=torch.float64)
        allowed = tolerance * max(1.0, abs(fresh.value))
        require_close(values[1:], values[:1], allowed, f"{name}: {claim} (value)")
        finite = torch.isfinite(wanted)
        require(
            torch.equal(finite, torch.isfinite(other.scores)),
            f"{name}: {claim} (which scores are finite).",
        )
        size = float(wanted[finite].abs().max()) if bool(finite.any()) else 0.0
        require_close(
            other.scores[finite], wanted[finite], tolerance * size, f"{name}: {claim} (scores)"
        )

    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(sets["generated"]), generator=generator)
    agree(
        metric(**{**sets, "generated": sets["generated"][order]}),
        fresh.scores[order],
        "the order of the samples must not matter",
    )
    if train_order:
        order = torch.randperm(len(sets["train"]), generator=generator)
        agree(
            metric(**{**sets, "train": sets["train"][order]}),
            fresh.scores,
            "the order of the training points must not matter",
        )
    agree(
        metric(**{key: points.to(torch.float64) for key, points in sets.items()}),
        fresh.scores,
        "float64 input must agree with float32",
    )


def _check_refusals(metric: Metric, sets: Mapping[str, Tensor], name: str) -> None:
    for key, points in sets.items():
        for bad in (math.nan, math.inf):
            broken = points.clone()
            broken.view(len(points), -1)[len(points) // 2, 0] = bad
            _check_refusal(metric, {**sets, key: broken}, key, f"{bad} in {key}", name)
        narrow = points.flatten(1)[:, :-1]
        # Against the other two sets any of the three may be called wrong.
        _check_refusal(metric, {**sets, key: narrow}, None, f"{key} of another shape", name)
    for key in ("generated", "train"):
        _check_refusal(metric, {**sets, key: sets[key][:0]}, key, f"no {key} points", name)


def _check_refusal(
    metric: Metric, sets: Mapping[str, Tensor], argument: str | None, what: str, name: str
) -> None:
    try:
        metric(**sets)
    except ValueError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(
            f"{name} must refuse {what} with a ValueError, got {type(error).__name__}: {error}"
        ) from error
    else:
        raise AssertionError(f"{name} must refuse {what} with a ValueError, but returned.")
    require(
        "\n" not in message and message.endswith(".") and len(message) > 20,
        f"{name} must refuse {what} in one sentence, got {message!r}.",
    )
    require(
        argument is None or argument in message,
        f"{name} must name {argument} where it refuses {what}, got {message!r}.",
    )


def _check_fresh(fresh: MetricResult, allowed: float | None, name: str) -> None:
    null = fresh.null
    assert null is not None
    claim = f"{name} must be near its null on fresh samples"
    if allowed is not None:
        require(
            abs(fresh.value - null.value) <= allowed * abs(null.value),
            f"{claim}, got {fresh.value:g} and {null.value:g}.",
        )
        return

    def ends(interval: Interval | None, value: float) -> tuple[float, float]:
        return (value, value) if interval is None else (interval.low, interval.high)

    low, high = ends(fresh.interval, fresh.value)
    least, most = ends(null.interval, null.value)
    require(
        low <= most and least <= high,
        f"{claim}, got [{low:g}, {high:g}] and [{least:g}, {most:g}].",
    )


def _check_copies(
    metric: Metric,
    sets: Mapping[str, Tensor],
    fresh: MetricResult,
    value: Suspicious | None,
    scores: Suspicious | None,
    name: str,
) -> None:
    half = len(sets["generated"]) // 2
    mixed = metric(
        **{**sets, "generated": torch.cat([sets["train"][:half], sets["generated"][half:]])}
    )
    wholly = metric(
        **{**sets, "generated": sets["train"][torch.arange(2 * half) % len(sets["train"])]}
    )
    for expected, got, before, what in (
        (value, mixed.value, fresh.value, "the value with half of the samples copied"),
        (value, wholly.value, fresh.value, "the value with all samples copied"),
        (
            scores,
            float(mixed.scores[:half].nanmedian()),
            float(mixed.scores[half:].nanmedian()),
            "the scores of copies",
        ),
    ):
        if expected is not None:
            require(
                got < before if expected == "low" else got > before,
                f"{name}: {what} must be {'lower' if expected == 'low' else 'higher'} than "
                f"without, got {got:g} and {before:g}.",
            )
