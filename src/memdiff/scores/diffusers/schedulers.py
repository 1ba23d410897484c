"""From a scheduler to its convention."""

from __future__ import annotations

from typing import Any

import torch

from memdiff.processes import EDM
from memdiff.processes.tabulated import TabulatedVP
from memdiff.scores.diffusers.conventions import Chain, Convention, Flow, Preconditioned

__all__ = ["convention_of"]

_CHAIN = ("epsilon", "sample", "v_prediction")
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_PRECONDITIONED = ("epsilon", "v_prediction")


def convention_of(scheduler: Any, *, nearest: bool = False) -> Convention:  # noqa: ANN401
    """What the networks of a scheduler are given and return.

    Args:
        scheduler: A scheduler of ``diffusers``: a discrete chain, that is one with
            ``alphas_cumprod``, an EDM scheduler, or one of flow matching.
        nearest: Round time steps, for networks that know integers only.

    Returns:
        A :class:`Chain`, a :class:`Preconditioned` or a :class:`Flow`.

    Raises:
        ValueError: If ``scheduler`` is no such scheduler, or its prediction type is unknown, or
            says nothing about the data at a zero terminal signal-to-noise ratio.
    """
    name = type(scheduler).__name__
    config = getattr(scheduler, "config", None)
    if config is None:
        raise ValueError(
            f"scheduler must be a scheduler of diffusers such as DDPMScheduler(), got {name}."
        )
    if hasattr(scheduler, "precondition_inputs"):
        prediction = _prediction(scheduler, _PRECONDITIONED)
        edm = EDM(sigma_min=config.sigma_min, sigma_max=config.sigma_max, rho=config.rho)
        return Preconditioned(edm, float(config.sigma_data), prediction)
    if name in _FLOWS:
        return Flow(float(config.num_train_timesteps))
    table = getattr(scheduler, "alphas_cumprod", None)
    unusual = [
        key
        for key in ("use_flow_sigmas", "timestep_type")
        if config.get(key) not in (None, False, "discrete")
    ]
    if table is None or unusual or hasattr(scheduler, "sigmas_interpol"):
        what = f" with {unusual[0]}={config.get(unusual[0])!r}" if unusual else ""
        raise ValueError(
            f"scheduler {name}{what} is not supported: use a scheduler whose steps are those of a "
            f"table alphas_cumprod (DDPM, DDIM, PNDM, Euler, Heun, DPM-Solver, UniPC), an EDM "
            f"scheduler, or FlowMatchEulerDiscreteScheduler."
        )
    prediction = _prediction(scheduler, _CHAIN)
    table = torch.as_tensor(table).detach().to("cpu", torch.float64).clone()
    if config.get("rescale_betas_zero_snr"):
        table[-1] = 0.0  # some schedulers keep 2^-24, which is above the entry before it
    process = TabulatedVP(table)
    if process.zero_terminal_snr and prediction == "epsilon":
        raise ValueError(
            f"scheduler {name} has prediction_type 'epsilon' and a zero terminal signal-to-noise "
            f"ratio, where the noise says nothing about the data; expected 'v_prediction' or "
            f"'sample', or rescale_betas_zero_snr=False."
        )
    return Chain(scheduler, process, prediction, nearest=nearest)


def _prediction(scheduler: Any, known: tuple[str, ...]) -> Any:  # noqa: ANN401
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in known:
        raise ValueError(
            f"prediction_type of {type(scheduler).__name__} must be one of "
            f"{', '.join(map(repr, known))}, got {prediction!r}."
        )
    return prediction
