"""Features from a folder of a Hugging Face ``transformers`` vision model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from memdiff.features.descriptor import Metric
from memdiff.features.network import Network
from memdiff.features.preprocessing import Preprocessing
from memdiff.sources.hashing import state_sha256

__all__ = ["Output", "TransformersModel"]

Output = Literal["pooled", "class", "mean"]

# What save_pretrained adds and no computation reads.
_BOOKKEEPING = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


class TransformersModel(Network):
    """Features from a vision model that ``save_pretrained`` wrote: DINOv2, CLIP, ViT, ...

    Nothing is downloaded, no code of the folder is run and no pickle is read: the weights must be
    ``.safetensors``. Computed in float32.

    Args:
        folder: The folder, with ``config.json`` and the weights.
        preprocessing: How images are brought to its input;
            ``Preprocessing.from_folder(folder)`` reads what the folder states.
        output: ``"pooled"`` (image embedding of CLIP, else the pooler's output), ``"class"`` (the
            first token of the last layer) or ``"mean"`` (the mean over tokens or places).
        name: What reports call it.
        metric: ``"cosine"`` or ``"euclidean"``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no such model, or one that lacks weights which ``output`` needs.
        ImportError: If ``transformers`` is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        preprocessing: Preprocessing,
        output: Output = "pooled",
        name: str = "transformers",
        metric: Metric = "cosine",
    ) -> None:
        if output not in ("pooled", "class", "mean"):
            raise ValueError(f"output must be 'pooled', 'class' or 'mean', got {output!r}.")
        self.folder = Path(folder).expanduser()
        self.output = output
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"features {name!r}: there is no folder {str(self.folder)!r}; give the folder of "
                f"a transformers model on this machine, nothing is downloaded."
            )
        self._config = _read_config(self.folder, name)
        module = _load(self.folder, name, pooled=output == "pooled")
        super().__init__(module, name=name, preprocessing=preprocessing, metric=metric)
        self._sha256 = state_sha256(self.module)

    @property
    def parameters(self) -> dict[str, Any]:
        """Configuration of the model, hash of its weights, output and preprocessing."""
        return {
            "config": self._config,
            "weights_sha256": self._sha256,
            "output": self.output,
            "preprocessing": self.preprocessing.parameters,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """As for every descriptor, with the folder."""
        return {**super().settings, "path": str(self.folder)}

    def _output(self, prepared: Tensor) -> Any:  # noqa: ANN401
        model: Any = self.module
        if self.output == "pooled" and hasattr(model, "get_image_features"):
            found = model.get_image_features(pixel_values=prepared)
            return found if isinstance(found, Tensor) else found.pooler_output
        found = getattr(model, "vision_model", model)(pixel_values=prepared)
        if self.output == "pooled":
            pooled = getattr(found, "pooler_output", None)
            if pooled is None:
                raise ValueError(
                    f"features {self.name!r}: a {type(model).__name__} has no pooled output; give "
                    f"output='class' or output='mean'."
                )
            return pooled
        hidden = found.last_hidden_state
        if self.output == "mean":
            return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)
        if hidden.ndim != 3:
            raise ValueError(
                f"features {self.name!r}: a {type(model).__name__} has no class token; give "
                f"output='pooled' or output='mean'."
            )
        return hidden[:, 0]


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"features {name!r}: {str(folder)!r} has no config.json, so it is no transformers "
            f"model; give the folder that save_pretrained wrote."
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"features {name!r}: {str(path)!r} is not valid JSON; copy the folder again."
        ) from error
    return {key: value for key, value in config.items() if key not in _BOOKKEEPING}


def _load(folder: Path, name: str, *, pooled: bool) -> nn.Module:
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise ImportError(
            f"features {name!r} need transformers; run: pip install 'memdiff[descriptors]'"
        ) from error
    from safetensors import SafetensorError

    noisy, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"features {name!r}: {str(folder)!r} cannot be loaded as a transformers model with "
            f".safetensors weights: {reason}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if noisy:
            logging.enable_progress_bar()
    # Missing weights would be drawn at random, and every distance with them.
    missing = sorted(
        key for key in report["missing_keys"] if pooled or not key.startswith("pooler.")
    )
    if missing:
        only_pooler = all(key.startswith("pooler.") for key in missing)
        remedy = "give output='class' or 'mean'" if only_pooler else "give the whole model"
        raise ValueError(
            f"features {name!r}: {str(folder)!r} lacks {len(missing)} weights of the model, such "
            f"as {missing[0]!r}; {remedy}."
        )
    loaded: nn.Module = model.float().eval()
    return loaded
