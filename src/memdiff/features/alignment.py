r"""Registration of pairs of images, and what is left when they are registered.

A sample :math:`S` is compared with a point :math:`P` by the best

.. math:: S(u) \approx a \, P(s R_\theta u + t) + b

over shift :math:`t`, rotation :math:`\theta`, scale :math:`s`, gain :math:`a > 0` and offset
:math:`b`, of :math:`P` and of its mirror image. Gauss-Newton steps from coarse to fine, by the
inverse compositional scheme: the gradients are those of the sample, so that a step takes one
interpolation of each point.

The residual is :math:`\sqrt{1 - \rho}` with :math:`\rho` the correlation of the sample and the
registered point over *all* pixels of the sample. Where the point does not reach it predicts
nothing: two images that share a half are half explained, a copy that was cropped and enlarged is
explained up to interpolation.

OpenCV's ``findTransformECC`` takes as long for each pair, does not converge for 2 to 15 % of the
copies and most other pairs (an exception each), and is no core dependency.

References:
    Lucas and Kanade 1981, An iterative image registration technique.
    Baker and Matthews 2004, Lucas-Kanade 20 years on: a unifying framework, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad

from memdiff.features.preprocessing import luma

__all__ = ["registered_residual"]

_LARGEST_SIDE = 48
_SMALLEST_SIDE = 12  # of the coarsest level
_STEPS = (4, 4, 4)  # on the finest level last; more change nothing there
_MOST_SHIFT = 0.3  # of a side
_MOST_ROTATION = math.radians(15)
_MOST_SCALE = 1.4
_LONGEST_STEP = 0.2  # in sides, radians, log scale
# Deviation, in signed pixels, below which contrast counts as noise. It and the smoothing are the
# best of those tried on `benchmarks/edited_copies.py`.
_NOISE = 0.02
_PIXELS_AT_A_TIME = 2**17


def registered_residual(samples: Tensor, points: Tensor, *, mirror: bool = True) -> Tensor:
    """Residual of each pair of images under the best registration of the two.

    Args:
        samples: ``(B, C, H, W)`` in [-1, 1].
        points: Of the same shape; the image that each sample may be an edited copy of.
        mirror: Whether the mirror image of the point counts as well.

    Returns:
        ``(B,)``, float64, from 0 (equal up to a transform of the model) to 1 (nothing shared). It
        is never above the residual of the images as they are. Two images without contrast have
        residual 0.

    Raises:
        ValueError: If the shapes differ or are not those of images.

    Example:
        >>> point = torch.linspace(-1, 1, 1024).sin().reshape(1, 1, 32, 32)
        >>> float(registered_residual(0.5 * point.flip(-1) + 0.2, point)) < 0.1
        True
    """
    if samples.ndim != 4 or samples.shape != points.shape:
        raise ValueError(
            f"samples and points must be pairs of images (B, C, H, W) of one shape, got "
            f"{tuple(samples.shape)} and {tuple(points.shape)}."
        )
    residuals = samples.new_empty(len(samples), dtype=torch.float64)
    h, w = _shrunk_shape(*samples.shape[-2:])
    chunk = max(1, _PIXELS_AT_A_TIME // (h * w))
    for start in range(0, len(samples), chunk):
        part = slice(start, start + chunk)
        sample, point = _prepared(samples[part]), _prepared(points[part])
        best = _register(sample, point)
        if mirror:
            best = torch.minimum(best, _register(sample, point.flip(-1)))
        residuals[part] = best
    return residuals


def _shrunk_shape(h: int, w: int) -> tuple[int, int]:
    ratio = min(1.0, _LARGEST_SIDE / max(h, w))
    return max(1, round(h * ratio)), max(1, round(w * ratio))


def _prepared(images: Tensor) -> Tensor:
    """Grey images ``(B, H, W)`` of at most the largest side, float32, without the finest detail.

    JPEG, noise and interpolation differ there; 1 2 1 twice has a deviation of one pixel.
    """
    grey = luma(images.to(torch.float32)).unsqueeze(1)
    shape = _shrunk_shape(*grey.shape[-2:])
    if shape != tuple(grey.shape[-2:]):
        grey = interpolate(grey, shape, mode="bilinear", align_corners=False, antialias=True)
    return _smoothed(_smoothed(grey)).squeeze(1)


def _smoothed(images: Tensor) -> Tensor:
    """Binomial weights 1 2 1 along both sides."""
    padded = pad(images, (1, 1, 1, 1), mode="replicate")
    # Neighbours first, so that mirrored images have the same bits.
    rows = ((padded[..., :-2, :] + padded[..., 2:, :]) + 2 * padded[..., 1:-1, :]) / 4
    return ((rows[..., :-2] + rows[..., 2:]) + 2 * rows[..., 1:-1]) / 4


def _pyramid(images: Tensor) -> list[Tensor]:
    """The images at half and a quarter of their size where that leaves enough; coarsest first."""
    levels = [images]
    while len(levels) < len(_STEPS) and min(levels[0].shape[-2:]) >= 2 * _SMALLEST_SIDE:
        h, w = levels[0].shape[-2:]
        smaller = interpolate(
            levels[0].unsqueeze(1), ((h + 1) // 2, (w + 1) // 2), mode="area"
        ).squeeze(1)
        levels.insert(0, smaller)
    return levels


def _register(sample: Tensor, point: Tensor) -> Tensor:
    """Residual ``(B,)`` under the identity or the registration, whichever is smaller."""
    warped, inside = _warped(point, _motion(sample, point))
    return torch.minimum(_residual(sample, point), _residual(sample, _filled(warped, inside)))


def _motion(sample: Tensor, point: Tensor) -> Tensor:
    """Shift along x and y in units of the longer side, rotation, log scale: ``(B, 4)``."""
    motion = sample.new_zeros(len(sample), 4)
    levels = list(zip(_pyramid(sample), _pyramid(point), strict=True))
    for (s, p), count in zip(levels, _STEPS[-len(levels) :], strict=True):
        motion = _refined(s, p, motion, count)
    return motion


def _refined(sample: Tensor, point: Tensor, motion: Tensor, count: int) -> Tensor:
    """The motion after so many Gauss-Newton steps on one level."""
    h, w = sample.shape[-2:]
    side = max(h, w)
    y, x = torch.meshgrid(
        (torch.arange(h, device=sample.device) + 0.5) / side - h / side / 2,
        (torch.arange(w, device=sample.device) + 0.5) / side - w / side / 2,
        indexing="ij",
    )
    padded = pad(sample.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    along_x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * (side / 2)
    along_y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * (side / 2)
    columns = torch.stack(
        [
            along_x,
            along_y,
            along_y * x - along_x * y,
            along_x * x + along_y * y,
            sample,
            torch.ones_like(sample),
        ],
        dim=-1,
    ).flatten(1, 2)
    # Ridge in the units of each column: a flat image stays where it is.
    ridge = torch.eye(6, dtype=torch.float64, device=sample.device) * (_NOISE**2 * h * w)
    for _ in range(count):
        warped, inside = _warped(point, motion)
        weighted = columns * inside.flatten(1).unsqueeze(-1)
        normal = (weighted.mT @ columns).double() + ridge
        right = (weighted.mT @ warped.flatten(1).unsqueeze(-1)).double()
        solution = torch.linalg.solve(normal, right).squeeze(-1)
        gain = solution[:, 4:5]
        step = torch.where(gain > 0.05, solution[:, :4] / gain.clamp(min=0.05), 0.0)
        motion = _composed(motion, step.to(motion.dtype))
    return motion


def _composed(motion: Tensor, step: Tensor) -> Tensor:
    """The motion after the inverse of a step of the sample's frame, kept within its bounds."""
    shift, angle, scale = motion[:, :2], motion[:, 2], motion[:, 3]
    back = -step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
    # W(u) = A u + t and V(u) = B u + v: W after the inverse of V is A B^-1 (u - v) + t.
    angle, scale = angle + back[:, 2], scale + back[:, 3]
    cos, sin = scale.exp() * angle.cos(), scale.exp() * angle.sin()
    x, y = back[:, 0], back[:, 1]
    moved = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)
    return torch.cat(
        [
            (shift + moved).clamp(-_MOST_SHIFT, _MOST_SHIFT),
            angle.clamp(-_MOST_ROTATION, _MOST_ROTATION).unsqueeze(1),
            scale.clamp(-math.log(_MOST_SCALE), math.log(_MOST_SCALE)).unsqueeze(1),
        ],
        dim=1,
    )


def _warped(point: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """The point at the moved pixels of the sample's frame, and where those are inside of it."""
    h, w = point.shape[-2:]
    side = max(h, w)
    size = motion[:, 3].exp()
    cos, sin = size * motion[:, 2].cos(), size * motion[:, 2].sin()
    # From units of a side to those of grid_sample, where each side is 2.
    theta = torch.stack(
        [
            torch.stack([cos, -sin * h / w, motion[:, 0] * 2 * side / w], dim=1),
            torch.stack([sin * w / h, cos, motion[:, 1] * 2 * side / h], dim=1),
        ],
        dim=1,
    )
    grid = torch.nn.functional.affine_grid(theta, [len(point), 1, h, w], align_corners=False)
    warped = grid_sample(
        point.unsqueeze(1), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    # Up to half a pixel outside the border continues what is there.
    reach = 1 + torch.tensor([1 / w, 1 / h], device=point.device)
    inside = (grid.abs() <= reach).all(-1)
    return warped.squeeze(1), inside.to(point.dtype)


def _filled(images: Tensor, inside: Tensor) -> Tensor:
    """Pixels outside become the mean of those inside: they predict nothing."""
    count = inside.sum((1, 2), keepdim=True).clamp(min=1)
    mean = (images * inside).sum((1, 2), keepdim=True) / count
    return torch.where(inside > 0, images, mean)


def _residual(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\sqrt{1 - \rho}`, as a distance so that equal images have exactly 0."""
    standardised = []
    for images in (a, b):
        rows = images.double().flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        # A common constant entry of the noise's size: blank images are alike, and no others are.
        noise = torch.full_like(rows[:, :1], _NOISE * rows.shape[1] ** 0.5)
        rows = torch.cat([rows, noise], dim=1)
        standardised.append(rows / rows.norm(dim=1, keepdim=True))
    return ((standardised[0] - standardised[1]).norm(dim=1) / 2**0.5).clamp_(max=1.0)
