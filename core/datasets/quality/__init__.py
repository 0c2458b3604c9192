"""Quality of a data set: measured before money is spent on training.

rows = [QualityRow(1, {"dynasty": "唐"}, "写一个唐朝的故事", "一位唐朝的英雄…")]
report(rows, ["dynasty"]).verdict            # pure
dataset_report(store, dataset_id).findings   # for rows in the database, measured once per state of the rows
"""

from core.datasets.quality.adherence import Adherence
from core.datasets.quality.measure import report
from core.datasets.quality.quality_store import RowText, dataset_report, fingerprint, row_texts
from core.datasets.quality.report import REASONS, QualityFinding, QualityReport, QualityRow, QualityVerdict, Share

__all__ = [
    "REASONS",
    "Adherence",
    "QualityFinding",
    "QualityReport",
    "QualityRow",
    "QualityVerdict",
    "RowText",
    "Share",
    "dataset_report",
    "fingerprint",
    "report",
    "row_texts",
]
