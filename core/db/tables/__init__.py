"""The ledger's tables: data sets and their rows, runs that fill them, training jobs, stories, the spend ledger, added
providers, accounts that are moved here, people, the workers' heartbeats, alerts, the engine's
aliases, and the audit log.
"""

from core.db.tables.alert import Alert
from core.db.tables.alias import AliasChange
from core.db.tables.archive import AccountArchive, ArchivedFile, ArchivedTune
from core.db.tables.audit import AuditEntry
from core.db.tables.base import Base, Owned, Sharing, Usd, Utc, utcnow
from core.db.tables.dataset import Batch, Dataset, DatasetVersion, RecipeVersion, Row, Run, VersionExample
from core.db.tables.guest import GuestLink, GuestVote
from core.db.tables.money import Budget, BudgetRequest, CustomPrice, RescuedEntry, SpeedMeasurement, Spend, SpendTotal
from core.db.tables.person import Invitation, Person, SignIn, SignInAccount
from core.db.tables.provider import RemovedProvider, SavedProvider
from core.db.tables.shadow import ModelShadow, ShadowPair
from core.db.tables.story import Story, Tour, Vote
from core.db.tables.training import (
    BeforeAfter,
    BeforeAfterAnswer,
    Checkpoint,
    Evaluation,
    EvaluationAnswer,
    ParityVote,
    TrainingEvent,
    TrainingJob,
)
from core.db.tables.worker import WorkerHeartbeat

__all__ = [
    "AccountArchive",
    "Alert",
    "AliasChange",
    "ArchivedFile",
    "ArchivedTune",
    "AuditEntry",
    "Base",
    "Batch",
    "BeforeAfter",
    "BeforeAfterAnswer",
    "Budget",
    "BudgetRequest",
    "Checkpoint",
    "CustomPrice",
    "Dataset",
    "DatasetVersion",
    "Evaluation",
    "EvaluationAnswer",
    "GuestLink",
    "GuestVote",
    "Invitation",
    "ModelShadow",
    "Owned",
    "ParityVote",
    "Person",
    "RecipeVersion",
    "RemovedProvider",
    "RescuedEntry",
    "Row",
    "Run",
    "SavedProvider",
    "ShadowPair",
    "Sharing",
    "SignIn",
    "SignInAccount",
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
    "WorkerHeartbeat",
    "utcnow",
]
