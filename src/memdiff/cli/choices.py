"""What the options may be, so that ``--help`` need not import the library.

Each is a copy of the library's own name, and a test holds the two together.
"""

__all__ = [
    "DESCRIPTOR_FORMS",
    "PROCESSES",
    "REGULARIZERS",
    "SAMPLERS",
    "STOPPING_RULES",
    "STREAM_ABOVE",
]

REGULARIZERS = (
    "none",
    "tikhonov",
    "empirical-bayes",
    "temperature",
    "smoothed",
    "early-stop",
)
PROCESSES = ("edm", "ve", "vp", "linear")
SAMPLERS = ("heun", "euler", "ddim", "rk45", "logtime", "sde")
STOPPING_RULES = ("silverman", "scott", "likelihood")
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
STREAM_ABOVE = 2**27
