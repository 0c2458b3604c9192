"""Commands for operating an installation: `python -m core.admin COMMAND`.

Begin with `__main__.py`. `archive` defines the format of a backup file; `ledger_copy` copies the database.
"""

from core.errors import FabulaError


class AdminError(FabulaError):
    """A command failed or was refused. The message is in English only, like the logs: no page shows it."""
