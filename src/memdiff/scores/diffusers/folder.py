"""Networks and schedulers from folders that ``save_pretrained`` wrote."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

__all__ = ["load_network", "load_scheduler"]

_NETWORK = "UNet2DModel"
_EXAMPLE = "give the folder that save_pretrained of a DDPMPipeline wrote"


def load_network(folder: str | Path, unet: str = "unet") -> nn.Module:
    """Read a ``UNet2DModel`` with ``.safetensors`` weights, in evaluation mode.

    Args:
        folder: The folder of a pipeline, or of the network itself.
        unet: Sub-folder of the network.

    Returns:
        The network, on the CPU.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no such network, or weights are missing.
        ImportError: If ``diffusers`` is not installed.
    """
    place, config = _find(folder, unet, "config.json", "network")
    name = config.get("_class_name")
    if name != _NETWORK:
        raise ValueError(
            f"the network in {str(place)!r} must be a {_NETWORK}, got {name!r}: load it yourself, "
            f"and pass DiffusersScore a module that is called as net(x, timesteps)."
        )
    if not any(place.glob("*.safetensors")):
        raise ValueError(
            f"{str(place)!r} holds no .safetensors weights, and other formats are pickles, which "
            f"are not read: save the network again with safe_serialization=True."
        )
    diffusers = _diffusers()
    try:
        with _quietly(diffusers):
            network, report = diffusers.UNet2DModel.from_pretrained(
                place,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(
            f"{str(place)!r} cannot be loaded as a {_NETWORK}: {_reason(error)}"
        ) from error
    missing = sorted(report["missing_keys"])  # they would be drawn at random
    if missing:
        raise ValueError(
            f"{str(place)!r} lacks {len(missing)} weights of its network, such as {missing[0]!r}; "
            f"copy the folder again."
        )
    loaded: nn.Module = network.eval()
    return loaded


def load_scheduler(folder: str | Path) -> Any:  # noqa: ANN401
    """Read a scheduler of ``diffusers``.

    Args:
        folder: The folder of a pipeline, or of the scheduler itself.

    Returns:
        The scheduler, of the class that its configuration names.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no scheduler, or one that this ``diffusers`` does not have.
        ImportError: If ``diffusers`` is not installed.
    """
    place, config = _find(folder, "scheduler", "scheduler_config.json", "scheduler")
    diffusers = _diffusers()
    name = config.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(
            f"the scheduler in {str(place)!r} must be one of diffusers "
            f"{diffusers.__version__}, got {name!r}."
        )
    try:
        with _quietly(diffusers):
            loaded: Any = kind
            return loaded.from_pretrained(place, local_files_only=True)
    except Exception as error:  # each scheduler checks its own configuration in its own way
        raise ValueError(
            f"{str(place)!r} cannot be loaded as a {name}: {_reason(error)}"
        ) from error


def _find(folder: str | Path, sub: str, file: str, what: str) -> tuple[Path, dict[str, Any]]:
    """The folder in which ``file`` is, below or at ``folder``, and what the file says."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(root)!r}: {_EXAMPLE}; nothing is downloaded."
        )
    for place in (root / sub, root):
        if (place / file).is_file():
            return place, _read(place / file)
    raise ValueError(
        f"{str(root)!r} has no {what}: expected {sub}/{file} or {file} in it; {_EXAMPLE}."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not valid JSON; copy the folder again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object; copy the folder again.")
    return config


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _diffusers() -> Any:  # noqa: ANN401
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "networks of diffusers need diffusers; run: pip install 'memdiff[diffusers]'"
        ) from error
    return diffusers


@contextlib.contextmanager
def _quietly(diffusers: Any) -> Iterator[None]:  # noqa: ANN401
    """What is wrong is raised, so the library need not log it as well."""
    logging = diffusers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
