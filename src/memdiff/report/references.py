"""The references that reports cite, by the keys that docstrings use.

A text of a report cites by key in brackets, ``[B25]``; the report numbers what it cites in order
of appearance and lists it at its end.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REFERENCES", "Reference", "reference"]


@dataclass(frozen=True)
class Reference:
    """A publication.

    Attributes:
        key: Key by which it is cited, such as ``"B25"``.
        authors: Authors.
        title: Title.
        arxiv: arXiv identifier, or None.
        venue: Where it was published, or empty.
    """

    key: str
    authors: str
    title: str
    arxiv: str | None = None
    venue: str = ""

    @property
    def url(self) -> str | None:
        """Address of the publication, or None."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


_ALL = (
    Reference(
        "B25",
        "R. Baptista, A. Dasgupta, N. B. Kovachki, A. Oberai, A. M. Stuart",
        "Memorization and Regularization in Generative Diffusion Models",
        arxiv="2501.15785",
    ),
    Reference(
        "K22",
        "T. Karras, M. Aittala, T. Aila, S. Laine",
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        arxiv="2206.00364",
    ),
    Reference(
        "W24",
        "A. Wibisono, Y. Wu, K. Y. Yang",
        "Optimal score estimation via empirical Bayes smoothing",
        arxiv="2402.07747",
    ),
    Reference(
        "S25",
        "C. Scarvelis, H. Sáez de Ocáriz Borde, J. Solomon",
        "Closed-Form Diffusion Models",
        arxiv="2310.12395",
    ),
    Reference(
        "G25",
        "F. Gabriel et al.",
        "Kernel-Smoothed Scores for Denoising Diffusion",
        arxiv="2505.22841",
    ),
    Reference(
        "Z26",
        "Zhou, Zhang, Wright",
        "Smoothing the Score Function for Generalization in Diffusion Models",
        arxiv="2601.19285",
    ),
    Reference(
        "Bo25",
        "T. Bonnaire, R. Urfin, G. Biroli, M. Mézard",
        "Why Diffusion Models Don't Memorize",
        arxiv="2505.17638",
    ),
    Reference(
        "Y23",
        "T. Yoon et al.",
        "Diffusion Probabilistic Models Generalize when They Fail to Memorize",
        venue="2023",
    ),
    Reference("Gu23", "X. Gu et al.", "On Memorization in Diffusion Models", arxiv="2310.02664"),
    Reference(
        "M20",
        "C. Meehan, K. Chaudhuri, S. Dasgupta",
        "A Non-Parametric Test to Detect Data-Copying in Generative Models",
        venue="2020",
    ),
    Reference(
        "A22",
        "A. M. Alaa et al.",
        "How Faithful is your Synthetic Data?",
        venue="2022",
    ),
    Reference(
        "N20",
        "M. F. Naeem et al.",
        "Reliable Fidelity and Diversity Metrics for Generative Models",
        venue="2020",
    ),
    Reference("J23", "M. Jiralerspong et al.", "Feature Likelihood Divergence", venue="2023"),
    Reference(
        "Ba23",
        "S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia",
        "Testing for Outliers with Conformal p-values",
        venue="2023",
    ),
)

REFERENCES: dict[str, Reference] = {one.key: one for one in _ALL}


def reference(key: str) -> Reference:
    """The reference with a key.

    Raises:
        ValueError: If there is none.

    >>> reference("B25").url
    'https://arxiv.org/abs/2501.15785'
    """
    if key not in REFERENCES:
        raise ValueError(f"unknown reference {key!r}; the keys are {', '.join(REFERENCES)}.")
    return REFERENCES[key]
