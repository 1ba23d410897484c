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
        venue="AISTATS 2020",
    ),
    Reference(
        "A22",
        "A. M. Alaa et al.",
        "How Faithful is your Synthetic Data?",
        venue="ICML 2022",
    ),
    Reference(
        "N20",
        "M. F. Naeem et al.",
        "Reliable Fidelity and Diversity Metrics for Generative Models",
        venue="ICML 2020",
    ),
    Reference(
        "J23", "M. Jiralerspong et al.", "Feature Likelihood Divergence", venue="NeurIPS 2023"
    ),
    Reference(
        "Ba23",
        "S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia",
        "Testing for Outliers with Conformal p-values",
        venue="Annals of Statistics 51, 2023",
    ),
    Reference(
        "Carlini23",
        "N. Carlini, J. Hayes, M. Nasr, M. Jagielski, V. Sehwag, F. Tramèr, B. Balle, "
        "D. Ippolito, E. Wallace",
        "Extracting Training Data from Diffusion Models",
        arxiv="2301.13188",
        venue="USENIX Security 2023",
    ),
    Reference(
        "Somepalli23",
        "G. Somepalli, V. Singla, M. Goldblum, J. Geiping, T. Goldstein",
        "Diffusion Art or Digital Forgery? Investigating Data Replication in Diffusion Models",
        arxiv="2212.03860",
        venue="CVPR 2023",
    ),
    Reference(
        "Pizzi22",
        "E. Pizzi, S. D. Roy, S. N. Ravindra, P. Goyal, M. Douze",
        "A Self-Supervised Descriptor for Image Copy Detection",
        arxiv="2202.10261",
        venue="CVPR 2022",
    ),
    Reference(
        "Friedman23",
        "D. Friedman, A. B. Dieng",
        "The Vendi Score: A Diversity Evaluation Metric for Machine Learning",
        arxiv="2210.02410",
        venue="TMLR 2023",
    ),
    Reference(
        "Barber15",
        "R. F. Barber, E. J. Candès",
        "Controlling the False Discovery Rate via Knockoffs",
        venue="Annals of Statistics 43, 2015",
    ),
    Reference(
        "Elias07",
        "J. E. Elias, S. P. Gygi",
        "Target-Decoy Search Strategy for Increased Confidence in Large-Scale Protein "
        "Identifications by Mass Spectrometry",
        venue="Nature Methods 4, 2007",
    ),
    Reference(
        "Clopper34",
        "C. J. Clopper, E. S. Pearson",
        "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial",
        venue="Biometrika 26, 1934",
    ),
    Reference(
        "Good56",
        "I. J. Good, G. H. Toulmin",
        "The Number of New Species, and the Increase in Population Coverage, when a Sample is "
        "Increased",
        venue="Biometrika 43, 1956",
    ),
    Reference(
        "Orlitsky16",
        "A. Orlitsky, A. T. Suresh, Y. Wu",
        "Optimal Prediction of the Number of Unseen Species",
        venue="PNAS 113, 2016",
    ),
    Reference(
        "Chao87",
        "A. Chao",
        "Estimating the Population Size for Capture-Recapture Data with Unequal Catchability",
        venue="Biometrics 43, 1987",
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
