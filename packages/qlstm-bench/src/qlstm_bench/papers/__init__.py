"""What papers published: figures to stand beside ours, and claims that runs decide."""

from qlstm_bench.papers.claims import Claim, Comparison, given_claims
from qlstm_bench.papers.published import PublishedFigure, published

__all__ = ["Claim", "Comparison", "PublishedFigure", "given_claims", "published"]
