"""Quality: what the rows of a data set are like, found out before training money is spent on them.

rows = [QualityRow(1, {"dynasty": "唐"}, "写一个唐朝的故事", "一位唐朝的英雄…")]
report(rows, ["dynasty"]).verdict  # pure
of(store, dataset_id).findings     # the same for rows in the ledger, measured once for each state of theirs
"""

from core.dataset.quality.adherence import Adherence
from core.dataset.quality.measure import report
from core.dataset.quality.quality_store import RowText, fingerprint, of, texts_of
from core.dataset.quality.report import REASONS, QualityFinding, QualityReport, QualityRow, QualityVerdict, Share

__all__ = [
    "REASONS",
    "Adherence",
    "QualityFinding",
    "QualityReport",
    "QualityRow",
    "QualityVerdict",
    "RowText",
    "Share",
    "fingerprint",
    "of",
    "report",
    "texts_of",
]
