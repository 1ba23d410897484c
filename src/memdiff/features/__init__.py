"""Descriptors: rows for neighbour search, from pixels to the features of a network."""

from typing import TYPE_CHECKING

from memdiff.public.lazy import lazily

if TYPE_CHECKING:
    from memdiff.features.alignment import registered_residual
    from memdiff.features.cache import FeatureCache
    from memdiff.features.columns import TableColumns
    from memdiff.features.dct import DCT
    from memdiff.features.descriptor import Descriptor, Metric, Progress
    from memdiff.features.downscaled import Downscaled
    from memdiff.features.forms import DESCRIPTOR_FORMS
    from memdiff.features.invariance import (
        Composition,
        Flip,
        Invariance,
        Rotate90,
        Shift,
        parse_invariance,
    )
    from memdiff.features.network import Network
    from memdiff.features.onnx_model import OnnxModel
    from memdiff.features.parsing import parse_descriptor
    from memdiff.features.pca import PCA, PrincipalAxes
    from memdiff.features.pixels import Pixels
    from memdiff.features.preprocessing import PREPROCESSING_PRESETS, Preprocessing
    from memdiff.features.thumbnail import Thumbnail
    from memdiff.features.torchscript import TorchScript
    from memdiff.features.transformers_model import TransformersModel

__all__ = [
    "DCT",
    "DESCRIPTOR_FORMS",
    "PCA",
    "PREPROCESSING_PRESETS",
    "Composition",
    "Descriptor",
    "Downscaled",
    "FeatureCache",
    "Flip",
    "Invariance",
    "Metric",
    "Network",
    "OnnxModel",
    "Pixels",
    "Preprocessing",
    "PrincipalAxes",
    "Progress",
    "Rotate90",
    "Shift",
    "TableColumns",
    "Thumbnail",
    "TorchScript",
    "TransformersModel",
    "parse_descriptor",
    "parse_invariance",
    "registered_residual",
]

__getattr__, __dir__ = lazily(__name__)
