"""Networks of Hugging Face ``diffusers`` as scores, and scores as their networks."""

from memdiff.scores.diffusers.adapter import DiffusersScore
from memdiff.scores.diffusers.conventions import Chain, Convention, Flow, Preconditioned
from memdiff.scores.diffusers.driven import DrivenScore, as_diffusers_model
from memdiff.scores.diffusers.schedulers import convention_of

__all__ = [
    "Chain",
    "Convention",
    "DiffusersScore",
    "DrivenScore",
    "Flow",
    "Preconditioned",
    "as_diffusers_model",
    "convention_of",
]
