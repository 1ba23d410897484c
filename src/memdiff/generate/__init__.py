"""Samples without training: regularised empirical scores, and the choice of their strength.

The package is its function as well: ``memdiff.generate(train, settings)`` is
:func:`memdiff.generate.generation.generate`.
"""

from typing import TYPE_CHECKING

from memdiff.public.callable_package import call_by
from memdiff.public.lazy import lazily

if TYPE_CHECKING:
    from memdiff.generate.families import (
        EARLY_STOP,
        EMPIRICAL_BAYES,
        SMOOTHED,
        TEMPERATURE,
        TIKHONOV,
        Family,
    )
    from memdiff.generate.generated import Generated
    from memdiff.generate.generation import generate, generate_to_file
    from memdiff.generate.selection import Selection, leave_one_out_draws, regularised, select
    from memdiff.generate.settings import (
        FAMILIES,
        PROCESSES,
        REGULARIZERS,
        SAMPLERS,
        STOPPING_RULES,
        GenerationSettings,
    )

__all__ = [
    "EARLY_STOP",
    "EMPIRICAL_BAYES",
    "FAMILIES",
    "PROCESSES",
    "REGULARIZERS",
    "SAMPLERS",
    "SMOOTHED",
    "STOPPING_RULES",
    "TEMPERATURE",
    "TIKHONOV",
    "Family",
    "Generated",
    "GenerationSettings",
    "Selection",
    "generate",
    "generate_to_file",
    "leave_one_out_draws",
    "regularised",
    "select",
]

__getattr__, __dir__ = lazily(__name__)
call_by(__name__, "generate")
