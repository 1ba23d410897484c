r"""Small networks side by side, each on points of its own, in batches of a fixed size.

:class:`~memdiff.training.ensemble.Ensemble` trains many networks on one data set, all of it in
each step. The studies here vary the data: :class:`NetworkStack` gives each network its own points
(and conditions) and draws ``batch_size`` of them, with replacement, in each step, so that a step
is the same amount of training whatever the number of points.

The loss is that of Karras et al. with their preconditioning,
:func:`memdiff.training.edm_objective` for a :class:`~memdiff.scores.NetworkScore` of kind
``"edm"``: with the target :math:`(x_0 - c_s x)/c_o` of the network :math:`f` it is
:math:`\mathrm{mean}\, |f - (x_0 - c_s x)/c_o|^2`. Adam, no decay of the learning rate.

Batches and noise of a network depend on its seed and the step alone: it trains as it would alone,
whatever else is in the stack, and goes on exactly after an interruption.

References:
    Karras, Aittala, Aila, Laine, arXiv:2206.00364, table 1 (loss, noise levels, preconditioning).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memdiff.processes import EDM
from memdiff.run.writing import replace_file
from memdiff.scores import NetworkScore
from memdiff.sources.hashing import sha256_of
from memdiff.training.networks.mlp import MLP, time_columns

__all__ = ["NetworkStack", "StackSettings", "snapshots"]

BLOCK = 128
"""Steps whose batches and noise are drawn at once."""

CHUNK = 4096
"""Steps between two savings of the state: what an interruption costs at most."""


@dataclass(frozen=True)
class StackSettings:
    r"""How the networks of a stack are trained.

    Attributes:
        batch_size: Points a step, drawn with replacement.
        learning_rate: Step size of Adam.
        sigma_data: :math:`\sigma_d` of the preconditioning and of the noise levels.
        ema: Largest decay of the average of the weights; step ``k`` averages with
            :math:`\min(\beta, (1 + k)/(10 + k))`, over about the last ninth of the steps so far.
    """

    batch_size: int = 32
    learning_rate: float = 1e-3
    sigma_data: float = 0.5
    ema: float = 0.99999


class NetworkStack:
    """Networks of one architecture that train side by side.

    Args:
        nets: The networks; they are not changed.
        data: Points of each network, float32 with shape ``(N_i, *S)``.
        seeds: Seed of each network's batches and noise.
        settings: How they are trained.
        conditions: Conditions of each network's points, float32 with shape ``(N_i, k)``, for
            networks with ``condition_features = k``.

    Raises:
        ValueError: If the numbers of networks, data sets and seeds differ.
    """

    def __init__(
        self,
        nets: Sequence[MLP],
        data: Sequence[Tensor],
        seeds: Sequence[int],
        settings: StackSettings,
        conditions: Sequence[Tensor] | None = None,
    ) -> None:
        if not nets or not len(nets) == len(data) == len(seeds):
            raise ValueError(
                f"nets, data and seeds must have one entry a network, got {len(nets)}, "
                f"{len(data)} and {len(seeds)}."
            )
        self.settings, self.seeds, self.step = settings, tuple(seeds), 0
        self._nets = list(nets)
        self._data = [points.flatten(1) for points in data]
        self._conditions = [one.flatten(1) for one in conditions] if conditions else None
        self._frequencies = torch.stack([net.frequencies for net in nets])
        self._weights: list[Tensor] = []
        for layers in zip(*(net.linear_layers() for net in nets), strict=True):
            self._weights.append(torch.stack([one.weight.detach().T for one in layers]))
            self._weights.append(torch.stack([one.bias.detach()[None] for one in layers]))
        self._weights = [weight.contiguous().requires_grad_() for weight in self._weights]
        self._average = [weight.detach().clone() for weight in self._weights]
        self._optimizer = torch.optim.Adam(self._weights, lr=settings.learning_rate, fused=True)
        self._key = json.dumps(
            {
                "settings": asdict(settings),
                "seeds": list(seeds),
                "data": [sha256_of(points) for points in self._data],
                "conditions": [sha256_of(one) for one in self._conditions or ()],
                "shapes": [list(weight.shape) for weight in self._weights],
            },
            sort_keys=True,
        )

    def advance(self, steps: int) -> None:
        """Train every network for ``steps`` more steps."""
        end = self.step + steps
        while self.step < end:
            block = self.step // BLOCK
            inputs, target = self._draws(block)
            for index in range(self.step - block * BLOCK, min(BLOCK, end - block * BLOCK)):
                self._advance_one(inputs[index], target[index])

    def _advance_one(self, inputs: Tensor, target: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self.loss(inputs, target).backward()
        self._optimizer.step()
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._weights, 1.0 - decay)
        self.step += 1

    def loss(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Sum over the networks of their mean losses, from inputs ``(G, B, in)``."""
        hidden, last = inputs, len(self._weights) - 2
        for index in range(0, last, 2):
            hidden = torch.baddbmm(self._weights[index + 1], hidden, self._weights[index]).relu()
        output = torch.baddbmm(self._weights[last + 1], hidden, self._weights[last])
        return nn.functional.mse_loss(output, target) * len(self.seeds)

    def _draws(self, block: int) -> tuple[Tensor, Tensor]:
        """Network inputs ``(BLOCK, G, B, in)`` and targets ``(BLOCK, G, B, d)`` of a block."""
        inputs, targets = [], []
        for number, points in enumerate(self._data):
            index, sigma, z = draw_batches(self.seeds[number], block, points.shape, self.settings)
            x0 = points[index]
            x = x0 + sigma[..., None] * z
            total = sigma[..., None] ** 2 + self.settings.sigma_data**2
            keep = self.settings.sigma_data**2 / total
            out = sigma[..., None] * self.settings.sigma_data / total.sqrt()
            columns = [
                x / total.sqrt(),
                time_columns(0.25 * sigma.log(), self._frequencies[number]),
            ]
            if self._conditions is not None:
                columns.append(self._conditions[number][index])
            inputs.append(torch.cat(columns, dim=-1))
            targets.append((x0 - keep * x) / out)
        return torch.stack(inputs, dim=1), torch.stack(targets, dim=1)

    def score(self, index: int) -> NetworkScore:
        """The averaged network with the place ``index``, as a score of its own."""
        net = _copy(self._nets[index])
        with torch.no_grad():
            for number, layer in enumerate(net.linear_layers()):
                layer.weight.copy_(self._average[2 * number][index].T)
                layer.bias.copy_(self._average[2 * number + 1][index, 0])
        score = NetworkScore(net, EDM(), "edm", sigma_data=self.settings.sigma_data)
        return score.eval().requires_grad_(False)

    def check_step(self, step: int) -> None:
        """Refuse to measure at a step that lies behind.

        Raises:
            ValueError: If the networks are not those of ``step``.
        """
        if self.step != step:
            raise ValueError(
                f"step {step} is to be measured, but the networks are at step {self.step}: a kept "
                "result was lost; remove the state of training to start again."
            )

    def save(self, path: Path) -> None:
        """Write all that training needs to go on exactly, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {}
        for number, weight in enumerate(self._weights):
            tensors[f"{number}.weight"] = weight.detach()
            tensors[f"{number}.average"] = self._average[number]
            for name in ("exp_avg", "exp_avg_sq"):
                state = self._optimizer.state.get(weight, {})
                tensors[f"{number}.{name}"] = state.get(name, torch.zeros_like(weight)).detach()
        with replace_file(path) as temporary:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata={"key": self._key, "step": str(self.step)},
            )

    def restore(self, path: Path) -> None:
        """Take up training where :meth:`save` left it.

        Raises:
            ValueError: If the file is of a stack with other data or settings.
        """
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != self._key:
                raise ValueError(
                    f"path {str(path)!r} holds a stack with other data or settings; remove it."
                )
            self.step = int(metadata["step"])
            for number, weight in enumerate(self._weights):
                with torch.no_grad():
                    weight.copy_(file.get_tensor(f"{number}.weight"))
                    self._average[number].copy_(file.get_tensor(f"{number}.average"))
                self._optimizer.state[weight] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": file.get_tensor(f"{number}.exp_avg"),
                    "exp_avg_sq": file.get_tensor(f"{number}.exp_avg_sq"),
                }


def draw_batches(
    seed: int, block: int, shape: Sequence[int], settings: StackSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Batches and noise of ``BLOCK`` steps of a network.

    Args:
        seed: Seed of the network.
        block: Number of the block: steps ``BLOCK * block`` and following.
        shape: Number of points and numbers in a point, ``(N, d)``.
        settings: Batch size and noise levels.

    Returns:
        int64 places ``(BLOCK, B)``, float32 noise levels ``(BLOCK, B)`` with normal logarithms,
        and standard normal noise ``(BLOCK, B, d)``.
    """
    (state,) = np.random.SeedSequence([seed, 2, block]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state))
    size = (BLOCK, settings.batch_size)
    index = torch.randint(shape[0], size, generator=generator)
    center = -1.2 + math.log(settings.sigma_data / 0.5)
    sigma = (center + 1.2 * torch.randn(size, generator=generator)).exp()
    return index, sigma, torch.randn(*size, shape[1], generator=generator)


def snapshots(
    stack: NetworkStack,
    steps: Sequence[int],
    state: Path,
    look: Callable[[int, NetworkStack], bool],
) -> None:
    """Train to each of ``steps`` and look; what was looked at is kept by the caller.

    After an interruption the steps that lie behind the state are looked at again: ``look`` answers
    from what it kept.

    Args:
        stack: The stack, restored from ``state`` where there is one.
        steps: Steps of the looks, increasing.
        state: File of the state of training.
        look: Called with each step and the stack; ends the run by True.
    """
    if state.is_file():
        stack.restore(state)
    for step in steps:
        while stack.step < step:
            stack.advance(min(CHUNK, step - stack.step))
            stack.save(state)
        if look(step, stack):
            return


def _copy(net: MLP) -> MLP:
    import copy

    return copy.deepcopy(net)
