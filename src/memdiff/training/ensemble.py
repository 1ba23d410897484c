r"""Many small networks, trained side by side in batched matrix products.

Studies of memorisation need many small networks: other seeds, widths, penalties, training sets.
One step of one of them is some dozens of operations of a few microseconds. Here the weights of
networks of one architecture lie in one buffer, a batched matrix product serves them all, the
backward pass is written out (every loss is quadratic in the network output,
:mod:`memdiff.training.quadratic_losses`), and Adam is one fused pass over the buffer.

Everything random in a step of a network is a function of its seed and the number of the step. So
a network trains as it would alone, whatever else is in the ensemble, and a run that was
interrupted goes on exactly.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memdiff.run.writing import replace_file
from memdiff.scores import NetworkScore
from memdiff.sources.hashing import sha256_of
from memdiff.training.averages import DecaySchedule, PowerWarmup
from memdiff.training.networks.mlp import MLP, time_columns
from memdiff.training.quadratic_losses import QuadraticLoss

__all__ = ["Ensemble", "Member"]

GROUP_BYTES = 10 << 20
"""Weights, gradients and moments that are trained together: what a processor cache holds."""


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble: what is trained, on what, and how.

    Attributes:
        net: The network with its initial weights; it is not changed.
        data: Training points with shape ``(N, *S)``.
        loss: What is minimised.
        seed: Seed of batches and noise.
        conditions: Conditions of the points with shape ``(N, k)``, for a network with
            ``condition_features = k``; None for none.

    Raises:
        ValueError: If ``data`` is empty or has no feature axis, or ``conditions`` does not have
            one row for each point.
    """

    net: MLP
    data: Tensor
    loss: QuadraticLoss
    seed: int = 0
    conditions: Tensor | None = None

    def __post_init__(self) -> None:
        if self.data.ndim < 2 or len(self.data) == 0:
            raise ValueError(
                "data must have shape (N, *S) with N at least 1, "
                f"got shape {tuple(self.data.shape)}."
            )
        if self.conditions is not None and len(self.conditions) != len(self.data):
            raise ValueError(
                f"conditions must have one row for each of {len(self.data)} points, "
                f"got {len(self.conditions)}."
            )


class _Group:
    """Members that train together: weights, gradients, moments and average, one buffer each."""

    def __init__(
        self,
        members: Sequence[Member],
        learning_rate: float,
        average: DecaySchedule,
        dtype: torch.dtype,
    ) -> None:
        self.members, self.schedule = members, average
        self.data = [_columns(member.data, dtype) for member in members]
        self.conditions = [
            None if member.conditions is None else _columns(member.conditions, dtype)
            for member in members
        ]
        layers = [member.net.linear_layers() for member in members]
        self.frequencies = torch.stack([member.net.frequencies for member in members]).to(dtype)
        self.shapes = [(one.in_features, one.out_features) for one in layers[0]]
        size = len(members) * sum((fan_in + 1) * fan_out for fan_in, fan_out in self.shapes)
        self.flat = torch.empty(size, dtype=dtype)
        self.flat.grad = torch.zeros_like(self.flat)
        self.weights = self.views(self.flat)
        self.gradients = self.views(self.flat.grad)
        for number, (weight, bias) in enumerate(self.weights):
            for index in range(len(members)):
                weight[index].copy_(layers[index][number].weight.detach().T)
                bias[index, 0].copy_(layers[index][number].bias.detach())
        self.average = self.flat.clone()
        self.optimizer = torch.optim.Adam([self.flat], lr=learning_rate, fused=True)
        moments = {name: torch.zeros_like(self.flat) for name in ("exp_avg", "exp_avg_sq")}
        self.optimizer.state[self.flat] = {"step": torch.tensor(0.0), **moments}
        rows = members[0].loss.batch_size(len(self.data[0]))
        self.hidden = [
            self.flat.new_empty(len(members), rows, fan_out) for _, fan_out in self.shapes[:-1]
        ]
        self.sensitivity = [torch.empty_like(hidden) for hidden in self.hidden]

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weights ``(G, in, out)`` and bias ``(G, 1, out)`` of every layer."""
        result, start, count = [], 0, len(self.members)
        for fan_in, fan_out in self.shapes:
            middle = start + count * fan_in * fan_out
            end = middle + count * fan_out
            weight = flat[start:middle].view(count, fan_in, fan_out)
            result.append((weight, flat[middle:end].view(count, 1, fan_out)))
            start = end
        return result

    def draw(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw network inputs and coefficients of the gradient, each ``(K, G, B, ...)``."""
        inputs, slopes, shifts = [], [], []
        for member, data, conditions, frequencies in zip(
            self.members, self.data, self.conditions, self.frequencies, strict=True
        ):
            draws = member.loss.draw(member.seed, block, data)
            columns = [draws.x, time_columns(draws.t, frequencies)]
            if conditions is not None:
                chosen = conditions if draws.index is None else conditions[draws.index]
                columns.append(chosen.expand(*draws.t.shape, -1))
            inputs.append(torch.cat(columns, dim=-1))
            slopes.append(draws.slope)
            shifts.append(draws.shift)
        return torch.stack(inputs, 1), torch.stack(slopes, 1), torch.stack(shifts, 1)

    @torch.no_grad()
    def advance(self, start: int, end: int) -> None:
        """Do the steps from ``start`` to ``end``, exclusive."""
        size = self.members[0].loss.block
        for block in range(start // size, -(-end // size)):
            first = block * size
            inputs, slope, shift = self.draw(block)
            for step in range(max(start, first), min(end, first + size)):
                index = step - first
                self.differentiate(inputs[index], slope[index], shift[index])
                self.optimizer.step()
                decay = self.schedule.decay_at(step)
                if decay is not None:
                    self.average.lerp_(self.flat, 1.0 - decay)

    def differentiate(self, inputs: Tensor, slope: Tensor, shift: Tensor) -> None:
        """Fill ``gradients`` with those of the sum of the members' losses."""
        layers = [inputs, *self.hidden]
        last = len(self.shapes) - 1
        for index, (weight, bias) in enumerate(self.weights[:last]):
            torch.baddbmm(bias, layers[index], weight, out=layers[index + 1]).relu_()
        weight, bias = self.weights[last]
        gradient = torch.addcmul(shift, slope, torch.baddbmm(bias, layers[last], weight))
        for index in range(last, -1, -1):
            weight, bias = self.gradients[index]
            torch.bmm(layers[index].mT, gradient, out=weight)
            torch.sum(gradient, 1, keepdim=True, out=bias)
            if index:
                back = self.sensitivity[index - 1]
                torch.bmm(gradient, self.weights[index][0].mT, out=back)
                gradient = back.mul_(layers[index].sign())  # hidden values are 0 or positive

    def network(self, index: int, average: bool) -> MLP:
        """Return a member as a module of its own."""
        from copy import deepcopy

        net = deepcopy(self.members[index].net).to(self.flat.dtype)
        with torch.no_grad():
            views = self.views(self.average if average else self.flat)
            for layer, (weight, bias) in zip(net.linear_layers(), views, strict=True):
                layer.weight.copy_(weight[index].T)
                layer.bias.copy_(bias[index, 0])
        return net.eval().requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that training changes, themselves and no copies."""
        optimizer: dict[str, Tensor] = self.optimizer.state[self.flat]
        return {"weights": self.flat.detach(), "average": self.average, **optimizer}


class Ensemble:
    """Networks that train side by side, each as it would alone.

    Members of one architecture and batch size are trained in groups that fit the cache; results
    do not depend on the grouping beyond the rounding of a matrix product.

    Args:
        members: The networks, each with its data and its loss.
        learning_rate: Step size of Adam (its other settings are PyTorch's defaults).
        average: Schedule of the averaged weights; ``PowerWarmup()`` by default.
        dtype: Type of weights and arithmetic.

    Raises:
        ValueError: If ``members`` is empty.

    Example:
        >>> import torch
        >>> from memdiff.processes import VP
        >>> from memdiff.training.quadratic_losses import FullBatchScoreMatching
        >>> data, loss = torch.randn(20, 2), FullBatchScoreMatching(VP())
        >>> nets = [MLP((2,), width=16, seed=seed) for seed in range(3)]
        >>> ensemble = Ensemble([Member(net, data, loss, seed) for seed, net in enumerate(nets)])
        >>> ensemble.advance(100)
        >>> ensemble.step, ensemble.score(2).parametrization
        (100, 'score')
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        learning_rate: float = 1e-3,
        average: DecaySchedule | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not members:
            raise ValueError("members must not be empty: give at least one network.")
        self.members, self.step = tuple(members), 0
        schedule = PowerWarmup() if average is None else average
        self._groups: list[_Group] = []
        self._place: dict[int, tuple[int, int]] = {}
        for chosen in _groups(self.members, dtype):
            for position, index in enumerate(chosen):
                self._place[index] = (len(self._groups), position)
            group = [self.members[index] for index in chosen]
            self._groups.append(_Group(group, learning_rate, schedule, dtype))
        self._settings = json.dumps(
            {
                "members": [(repr(member.loss), member.seed) for member in members],
                "data": [
                    [sha256_of(one) for one in (*group.data, *group.conditions) if one is not None]
                    for group in self._groups
                ],
                "networks": [
                    [sha256_of(group.flat), sha256_of(group.frequencies)] for group in self._groups
                ],
                "learning_rate": learning_rate,
                "average": repr(schedule),
            },
            sort_keys=True,
        )

    def advance(self, steps: int) -> None:
        """Train every member for ``steps`` more steps."""
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}.")
        for group in self._groups:
            group.advance(self.step, self.step + steps)
        self.step += steps

    def require_step(self, step: int) -> None:
        """Refuse to measure the networks of a step that lies behind.

        Raises:
            ValueError: If the networks are not those of ``step``.
        """
        if self.step != step:
            raise ValueError(
                f"step {step} is to be measured, but the networks are at step {self.step}: a kept "
                "result was lost; remove the state of training to start again."
            )

    def network(self, index: int, *, average: bool = True) -> MLP:
        """Return a copy of a member as a module of its own, in evaluation mode.

        Args:
            index: Place in ``members``.
            average: Averaged weights, or those of the last step.
        """
        group, position = self._place[range(len(self.members))[index]]
        return self._groups[group].network(position, average)

    def score(self, index: int) -> NetworkScore:
        """Return the score of the averaged network at a place in ``members``."""
        score = self.members[index].loss.score(self.network(index))
        return score.eval().requires_grad_(False)

    def save(self, path: str | Path) -> None:
        """Write all that training needs to go on exactly: a safetensors file, whole or not at all.

        Args:
            path: Name of the file.
        """
        from safetensors.torch import save_file

        tensors = {
            f"{number}.{name}": tensor
            for number, group in enumerate(self._groups)
            for name, tensor in group.state().items()
        }
        metadata = {"settings": self._settings, "step": str(self.step)}
        with replace_file(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

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
            for number, group in enumerate(self._groups):
                for name, tensor in group.state().items():
                    tensor.copy_(file.get_tensor(f"{number}.{name}"))
            self.step = int(metadata["step"])


def _columns(points: Tensor, dtype: torch.dtype) -> Tensor:
    return points.detach().cpu().to(dtype).flatten(1)


def _groups(members: Sequence[Member], dtype: torch.dtype) -> list[list[int]]:
    """Places of members that train together: equal shapes of all tensors, ``GROUP_BYTES``."""
    alike: dict[tuple, list[int]] = defaultdict(list)
    for index, member in enumerate(members):
        shapes = tuple(layer.weight.shape for layer in member.net.linear_layers())
        rows = member.loss.batch_size(len(member.data))
        alike[shapes, len(member.net.frequencies), rows, member.loss.block].append(index)
    groups = []
    for indices in alike.values():
        numbers = sum(p.numel() for p in members[indices[0]].net.parameters())
        size = max(1, GROUP_BYTES // (4 * numbers * dtype.itemsize))
        groups += [indices[start : start + size] for start in range(0, len(indices), size)]
    return groups
