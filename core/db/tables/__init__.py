"""The ledger's tables: data sets and their rows, runs that fill them, training jobs, stories, the spend ledger,
and added providers."""

from core.db.tables.base import Base, Usd, Utc, utcnow
from core.db.tables.dataset import Batch, Dataset, DatasetVersion, RecipeVersion, Row, Run, VersionExample
from core.db.tables.money import Budget, CustomPrice, RescuedEntry, SpeedMeasurement, Spend, SpendTotal
from core.db.tables.provider import SavedProvider
from core.db.tables.story import Story, Tour, Vote
from core.db.tables.training import (
    BeforeAfter,
    BeforeAfterAnswer,
    Checkpoint,
    Evaluation,
    EvaluationAnswer,
    TrainingEvent,
    TrainingJob,
)

__all__ = [
    "Base",
    "Batch",
    "BeforeAfter",
    "BeforeAfterAnswer",
    "Budget",
    "Checkpoint",
    "CustomPrice",
    "Dataset",
    "DatasetVersion",
    "Evaluation",
    "EvaluationAnswer",
    "RecipeVersion",
    "RescuedEntry",
    "Row",
    "Run",
    "SavedProvider",
    "SpeedMeasurement",
    "Spend",
    "SpendTotal",
    "Story",
    "Tour",
    "TrainingEvent",
    "TrainingJob",
    "Usd",
    "Utc",
    "VersionExample",
    "Vote",
    "utcnow",
]
