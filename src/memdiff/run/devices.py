"""The device that a command computes on."""

from __future__ import annotations

__all__ = ["devices", "resolve_device"]


def resolve_device(name: str) -> str:
    """Turn ``auto`` or a device name into a device that works here.

    Args:
        name: ``"auto"`` (the first GPU, else the CPU) or a torch device such as ``"cuda:1"``.

    Returns:
        A name that torch takes.

    Raises:
        ValueError: If there is no such device.
    """
    import torch

    if name == "auto":
        return devices()[0]
    try:
        if torch.empty(0, device=name).is_meta:  # it has no values
            raise RuntimeError(name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not available here: use auto or one of {', '.join(devices())}."
        ) from error
    return name


def devices() -> list[str]:
    """Names of the devices that memdiff computes on, the default first.

    Apple's devices have no float64, which every accumulator here is.
    """
    import torch

    return [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cpu"]
