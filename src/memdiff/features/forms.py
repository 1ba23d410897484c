"""The texts by which descriptors are asked for; imports nothing."""

__all__ = ["DESCRIPTOR_FORMS"]

DESCRIPTOR_FORMS = (
    "pixels",
    "downscaled:SIZE",
    "pca:COMPONENTS",
    "dct:SIZE",
    "thumbnail:SIDE",
    "table",
    "sscd:FILE[:PRESET]",
    "torchscript:FILE:PRESET",
    "onnx:FILE[:PRESET]",
    "transformers:FOLDER[:PRESET]",
)
"""What :func:`parse_descriptor` takes, for a help text."""
