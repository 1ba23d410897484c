r"""Many small networks, trained in one batched pass.

A study of regularisation by training (its length, its width, a penalty; [B25]) needs many small
networks with different seeds. One step of one of them is some dozens of operations of a few
microseconds; here the weights of networks of one architecture lie in one buffer, a batched matrix
product serves them all, the backward pass of the quadratic loss is written out, and Adam is one
fused pass over the buffer.

The loss of a member with network :math:`f` is denoising score matching with an explicit Tikhonov
penalty, on the whole training set, one time and one noise for each point and step:

.. math::
    L = \frac{1}{N d} \sum_n |\sigma s + z_n|^2 + c |s|^2, \qquad
    x = m x_n + \sigma z_n, \quad t_n \sim U(0, T),

with :math:`s = f` (``"score"``) or :math:`s = -f/\sigma` (``"noise"``: the singularity at
:math:`\sigma = 0` is built in). With :math:`b = \sigma` or :math:`-1` its gradient is
:math:`\partial L / \partial f = \frac{2}{N d} \big( (b^2 + c [s = f]) f + b z \big)`.

Noise is a function of the member's seed and the step alone. So a member trains as it would alone,
whatever else is in the ensemble, and a run that was interrupted goes on exactly.

References:
    Baptista, Dasgupta, Kovachki, Oberai, Stuart, arXiv:2501.15785 (settings as in the authors'
    public notebooks).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from memdiff.processes import ForwardProcess
from memdiff.run.writing import replace_file
from memdiff.sources.hashing import sha256_of
from memdiff.training.networks.mlp import MLP, time_columns

__all__ = ["Ensemble", "Member", "WeightAverage", "draw_noise"]

BLOCK = 256
"""Steps whose noise is drawn at once."""

GROUP_BYTES = 10 << 20
"""Weights, gradients and moments that are trained together: what a processor cache holds."""


@dataclass(frozen=True)
class Member:
    """One network of an ensemble.

    Attributes:
        seed: Decides the initial weights, the frequencies of the time features and the noise.
        width: Units of a hidden layer.
        depth: Hidden layers after the first.
        parametrization: ``"score"`` or ``"noise"``, as in :class:`~memdiff.scores.NetworkScore`.
        strength: Tikhonov strength :math:`c`, non-negative; positive for ``"score"`` only.
    """

    seed: int = 0
    width: int = 256
    depth: int = 2
    parametrization: Literal["score", "noise"] = "score"
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.parametrization not in ("score", "noise"):
            raise ValueError(
                f"parametrization must be 'score' or 'noise', got {self.parametrization!r}."
            )
        if not (0.0 <= self.strength < math.inf):
            raise ValueError(f"strength must be finite and not negative, got {self.strength}.")
        if self.strength and self.parametrization == "noise":
            raise ValueError(
                "strength must be 0 with parametrization 'noise', whose penalty E|f/sigma|^2 is "
                "infinite; use parametrization 'score'."
            )

    def network(self, shape: Sequence[int]) -> MLP:
        """The untrained network, for points of shape ``S``."""
        return MLP(shape, width=self.width, depth=self.depth, seed=self.seed)


@dataclass(frozen=True)
class WeightAverage:
    r"""Schedule of the exponential moving average of the weights.

    Every ``every`` steps the average moves to the weights with decay
    :math:`\min(\mathrm{decay},\ 1 - (1 + k - \mathrm{after})^{-\mathrm{power}})` at step
    :math:`k`; up to step ``after`` it is a copy. The defaults are those of the ``ema-pytorch``
    package, which the authors' notebooks use: the average is over about the last
    :math:`10 k^{2/3}` steps and reaches the nominal 0.9999 only at a million steps.

    Attributes:
        decay: Largest decay, in [0, 1).
        every: Steps between updates.
        after: Steps before averaging starts.
        power: Exponent of the warm-up; 0 for a decay that is constant.
    """

    decay: float = 0.9999
    every: int = 10
    after: int = 100
    power: float = 2.0 / 3.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0 or self.every < 1 or self.after < 0 or self.power < 0.0:
            raise ValueError(
                f"decay must lie in [0, 1), every be at least 1, after and power not negative, "
                f"got {self}."
            )

    def decay_at(self, step: int) -> float | None:
        """Decay of the update that follows optimiser step ``step`` (from 0); None for none."""
        if step % self.every:
            return None
        if step <= self.after:
            return 0.0
        if self.power == 0.0:
            return self.decay
        return min(self.decay, 1.0 - (1.0 + step - self.after) ** -self.power)


def draw_noise(
    seed: int, block: int, points: int, features: int, t_max: float
) -> tuple[Tensor, Tensor]:
    """Times and noise of ``BLOCK`` steps of a member.

    Args:
        seed: Seed of the member.
        block: Number of the block: steps ``BLOCK * block`` and following.
        points: Number of training points ``N``.
        features: Numbers in a point.
        t_max: Final time of the process.

    Returns:
        float32 times ``(BLOCK, N)``, uniform on [0, t_max), and standard normal noise
        ``(BLOCK, N, features)``.
    """
    (state,) = np.random.SeedSequence([seed, 1, block]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state))
    t = torch.rand(BLOCK, points, generator=generator) * t_max
    return t, torch.randn(BLOCK, points, features, generator=generator)


class _Stack:
    """Members of one architecture: weights, gradients, moments and average, one buffer each."""

    def __init__(
        self,
        members: Sequence[Member],
        data: Tensor,
        process: ForwardProcess,
        learning_rate: float,
        average: WeightAverage,
    ) -> None:
        self.members, self.data, self.process, self.schedule = members, data, process, average
        nets = [member.network(data.shape[1:]) for member in members]
        self.frequencies = torch.stack([net.frequencies for net in nets]).to(data.dtype)
        self.shapes = [(one.in_features, one.out_features) for one in nets[0].linear_layers()]
        size = len(nets) * sum((fan_in + 1) * fan_out for fan_in, fan_out in self.shapes)
        self.flat = torch.empty(size, dtype=data.dtype)
        self.flat.grad = torch.zeros_like(self.flat)
        for layer, (weight, bias) in enumerate(self.views(self.flat)):
            for index, net in enumerate(nets):
                linear = net.linear_layers()[layer]
                weight[index].copy_(linear.weight.detach().T)
                bias[index, 0].copy_(linear.bias.detach())
        self.average = self.flat.clone()
        self.optimizer = torch.optim.Adam([self.flat], lr=learning_rate, fused=True)
        self.weights = self.views(self.flat)
        self.gradients = self.views(self.flat.grad)
        points, count = len(data), len(nets)
        self.hidden = [data.new_empty(count, points, out) for _, out in self.shapes[:-1]]
        self.sensitivity = [torch.empty_like(hidden) for hidden in self.hidden]

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights ``(G, in, out)`` and bias ``(G, 1, out)`` of every layer."""
        result, start, count = [], 0, len(self.members)
        for fan_in, fan_out in self.shapes:
            middle = start + count * fan_in * fan_out
            end = middle + count * fan_out
            weight = flat[start:middle].view(count, fan_in, fan_out)
            result.append((weight, flat[middle:end].view(count, 1, fan_out)))
            start = end
        return result

    def _inputs(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Network inputs and the two coefficients of the gradient, for each step of a block."""
        flat_data = self.data.flatten(1).to(torch.float64)
        points, features = flat_data.shape
        draws = [
            draw_noise(member.seed, block, points, features, self.process.t_max)
            for member in self.members
        ]
        t = torch.stack([times for times, _ in draws], dim=1)
        z = torch.stack([noise for _, noise in draws], dim=1).to(torch.float64)
        m = self.process.scale(t.to(torch.float64))[..., None]
        sigma = self.process.std(t.to(torch.float64))[..., None]
        columns = time_columns(t.to(self.data.dtype), self.frequencies[None, :, None, :])
        inputs = torch.cat([(m * flat_data + sigma * z).to(self.data.dtype), columns], dim=-1)
        noise = torch.tensor([one.parametrization == "noise" for one in self.members])
        strength = torch.tensor([one.strength for one in self.members], dtype=torch.float64)
        b = torch.where(noise[:, None, None], torch.full_like(sigma, -1.0), sigma)
        unit = 2.0 / (points * features)
        factor = unit * (b**2 + strength[:, None, None])
        return inputs, factor.to(self.data.dtype), (unit * b * z).to(self.data.dtype)

    @torch.no_grad()
    def advance(self, start: int, end: int) -> None:
        """Steps ``start`` to ``end``, exclusive."""
        for block in range(start // BLOCK, -(-end // BLOCK)):
            first = block * BLOCK
            inputs, factor, shift = self._inputs(block)
            for step in range(max(start, first), min(end, first + BLOCK)):
                index = step - first
                self._step(inputs[index], factor[index], shift[index])
                decay = self.schedule.decay_at(step)
                if decay is not None:
                    self.average.lerp_(self.flat, 1.0 - decay)

    def _step(self, inputs: Tensor, factor: Tensor, shift: Tensor) -> None:
        layers = [inputs, *self.hidden]
        last = len(self.shapes) - 1
        for index, (weight, bias) in enumerate(self.weights[:last]):
            torch.baddbmm(bias, layers[index], weight, out=layers[index + 1]).relu_()
        weight, bias = self.weights[last]
        gradient = torch.addcmul(shift, factor, torch.baddbmm(bias, layers[last], weight))
        for index in range(last, -1, -1):
            weight, bias = self.gradients[index]
            torch.bmm(layers[index].mT, gradient, out=weight)
            torch.sum(gradient, 1, keepdim=True, out=bias)
            if index:
                back = self.sensitivity[index - 1]
                torch.bmm(gradient, self.weights[index][0].mT, out=back)
                gradient = back.mul_(layers[index].sign())  # hidden values are 0 or positive
        self.optimizer.step()

    def network(self, index: int, average: bool) -> MLP:
        net = self.members[index].network(self.data.shape[1:]).to(self.data.dtype)
        with torch.no_grad():
            views = self.views(self.average if average else self.flat)
            for layer, (weight, bias) in zip(net.linear_layers(), views, strict=True):
                layer.weight.copy_(weight[index].T)
                layer.bias.copy_(bias[index, 0])
        return net

    def state(self) -> dict[str, Tensor]:
        found = self.optimizer.state.get(self.flat, {})
        zeros = torch.zeros_like(self.flat)
        return {
            "weights": self.flat,
            "average": self.average,
            "first_moment": found.get("exp_avg", zeros),
            "second_moment": found.get("exp_avg_sq", zeros.clone()),
        }

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        with torch.no_grad():
            self.flat.copy_(state["weights"])
            self.average.copy_(state["average"])
        self.optimizer.state[self.flat] = {
            "step": torch.tensor(float(step)),
            "exp_avg": state["first_moment"].clone(),
            "exp_avg_sq": state["second_moment"].clone(),
        }


class Ensemble:
    """Networks that train side by side on one small data set, each as it would alone.

    Members of one architecture are trained in groups that fit the cache; results do not depend on
    the grouping beyond the rounding of a matrix product.

    Args:
        data: Training points with shape ``(N, *S)``, all of them used in each step.
        process: Forward process.
        members: The networks.
        learning_rate: Step size of Adam (its other settings are PyTorch's defaults).
        average: Schedule of the averaged weights.
        dtype: Type of weights and arithmetic.

    Raises:
        ValueError: If ``data`` or ``members`` is empty.

    Example:
        >>> import torch
        >>> from memdiff.processes import VP
        >>> members = [Member(seed=seed, width=16) for seed in range(3)]
        >>> ensemble = Ensemble(torch.randn(20, 2), VP(), members)
        >>> ensemble.advance(100)
        >>> ensemble.step, len(ensemble.networks())
        (100, 3)
    """

    def __init__(
        self,
        data: Tensor,
        process: ForwardProcess,
        members: Sequence[Member],
        *,
        learning_rate: float = 1e-3,
        average: WeightAverage | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if data.ndim < 2 or len(data) == 0 or not members:
            raise ValueError(
                f"data must have shape (N, *S) with N at least 1 and members must not be empty, "
                f"got shape {tuple(data.shape)} and {len(members)} members."
            )
        self.members, self.step = tuple(members), 0
        schedule = WeightAverage() if average is None else average
        points = data.detach().cpu().to(dtype)
        self._settings = json.dumps(
            {
                "members": [asdict(member) for member in members],
                "data": sha256_of(points),
                "process": repr(process),
                "learning_rate": learning_rate,
                "average": asdict(schedule),
            },
            sort_keys=True,
        )
        self._stacks: list[_Stack] = []
        self._place: dict[int, tuple[int, int]] = {}
        for chosen in _groups(self.members, points):
            for position, index in enumerate(chosen):
                self._place[index] = (len(self._stacks), position)
            group = [self.members[index] for index in chosen]
            self._stacks.append(_Stack(group, points, process, learning_rate, schedule))

    def advance(self, steps: int) -> None:
        """Train every member for ``steps`` more steps."""
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}.")
        for stack in self._stacks:
            stack.advance(self.step, self.step + steps)
        self.step += steps

    def network(self, index: int, *, average: bool = True) -> MLP:
        """A copy of a member as a module of its own.

        Args:
            index: Place in ``members``.
            average: Averaged weights, or those of the last step.
        """
        stack, position = self._place[range(len(self.members))[index]]
        return self._stacks[stack].network(position, average)

    def networks(self, *, average: bool = True) -> list[MLP]:
        """Copies of all members, in their order."""
        return [self.network(index, average=average) for index in range(len(self.members))]

    def save(self, path: str | Path) -> None:
        """Write all that training needs to go on exactly: a safetensors file, whole or not at all.

        Args:
            path: Name of the file.
        """
        from safetensors.torch import save_file

        tensors = {
            f"{number}.{name}": tensor.detach().contiguous()
            for number, stack in enumerate(self._stacks)
            for name, tensor in stack.state().items()
        }
        with replace_file(path) as temporary:
            save_file(
                tensors,
                temporary,
                metadata={"settings": self._settings, "step": str(self.step)},
            )

    def restore(self, path: str | Path) -> None:
        """Take up training where :meth:`save` left it.

        Args:
            path: File written by an ensemble with the same settings.

        Raises:
            ValueError: If the file is of an ensemble with other settings.
            FileNotFoundError: If there is no such file.
        """
        from safetensors import safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"path {str(path)!r} is not a file; train and save first.")
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("settings") != self._settings:
                raise ValueError(
                    f"path {str(path)!r} holds an ensemble with other members, data or settings; "
                    "remove it or use another name."
                )
            step = int(metadata["step"])
            for number, stack in enumerate(self._stacks):
                names = stack.state()
                stack.restore({name: file.get_tensor(f"{number}.{name}") for name in names}, step)
        self.step = step


def _groups(members: Sequence[Member], data: Tensor) -> list[list[int]]:
    """Places of members that train together: one architecture, within ``GROUP_BYTES``."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, member in enumerate(members):
        alike[member.width, member.depth].append(index)
    groups = []
    for indices in alike.values():
        net = members[indices[0]].network(data.shape[1:])
        numbers = sum(parameter.numel() for parameter in net.parameters())
        size = max(1, GROUP_BYTES // (4 * numbers * data.element_size()))
        groups += [indices[start : start + size] for start in range(0, len(indices), size)]
    return groups
