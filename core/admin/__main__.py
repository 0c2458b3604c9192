"""`python -m core.admin COMMAND`: operate the installation that the settings describe.

Exit codes: 0 success; 1 the command was refused, it failed, or a check found a problem; 2 invalid arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core import file_permissions, logs, secret_key, shared_files
from core.admin import AdminError, backup, check, ledger_copy, people_commands, restore
from core.alerts.channels import NotSent
from core.alerts.sender import configured_channels
from core.db.store import Store, new_id
from core.errors import FabulaError
from core.jobs.health import HealthCheck
from core.people import audit
from core.settings import Settings

_NO_SECRET_KEY = (
    "The secret key is not in it. Without it the keys of added providers cannot be decrypted: keep {where} in another "
    "place, or make the backup with --with-secret-key."
)


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    logs.configure()
    settings = Settings.load_or_exit() if environ is None else Settings.from_env(environ)
    logs.set_format(settings.log_format)
    command: Callable[[argparse.Namespace, Settings], int] = options.command
    try:
        return command(options, settings)
    except FabulaError as exc:
        print(exc.what, exc.next_step, file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(prog="python -m core.admin", description="Operate a Fabula installation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("backup", help="write a backup; Fabula may run meanwhile")
    one.add_argument("file", type=Path, metavar="FILE", help="the new file, for example fabula-2026-11-30.tar.gz")
    one.add_argument("--with-secret-key", action="store_true", help="include the key that decrypts the providers' keys")
    one.add_argument(
        "--no-base-models", action="store_true", help="leave out base models that were added to the engine"
    )
    one.set_defaults(command=_backup)

    one = commands.add_parser("restore", help="restore a backup into an empty FABULA_HOME and an empty database")
    one.add_argument("file", type=Path, metavar="FILE")
    one.set_defaults(command=_restore)

    one = commands.add_parser("migrate", help="bring the database to the schema of this version")
    one.set_defaults(command=_migrate)

    one = commands.add_parser("share-files", help="move shared files from FABULA_HOME to FABULA_FILES_URL")
    one.set_defaults(command=_share_files)

    one = commands.add_parser("health", help="check whether this installation can serve requests; for service managers")
    one.add_argument("--worker", action="store_true", help="check only whether a worker on this host is alive")
    one.set_defaults(command=_health)

    one = commands.add_parser("test-alerts", help="send a test message on each channel")
    one.set_defaults(command=_test_alerts)

    one = commands.add_parser("check", help="check databases, totals, keys and files; changes nothing")
    one.set_defaults(command=_check)

    one = commands.add_parser("verify-audit", help="check that no entry of the audit log was changed or removed")
    one.add_argument(
        "--known",
        nargs=2,
        metavar=("NUMBER", "HASH"),
        help="number and hash printed by an earlier run; this entry must still exist",
    )
    one.set_defaults(command=_verify_audit)

    people_commands.add_to(commands)
    return parser


def _backup(options: argparse.Namespace, settings: Settings) -> int:
    made = backup.create(
        settings,
        options.file,
        with_secret_key=options.with_secret_key,
        with_base_models=not options.no_base_models,
    )
    print(f"Backup written: {made.path} ({made.path.stat().st_size / 1e6:,.1f} MB).")
    print(f"It holds {_counted(made.manifest.counts)}.")
    if settings.secret_key is not None:
        print("FABULA_SECRET_KEY is not in it. Keep it: the keys of added providers can only be decrypted with it.")
    elif not made.manifest.has_secret_key and secret_key.key_file(settings.home).exists():
        print(_NO_SECRET_KEY.format(where=secret_key.key_file(settings.home)))
    if settings.engine_url is not None and not made.manifest.engine_version:
        print(f"The engine at {settings.engine_url} is not in it: back up its home folder on that machine.")
    if not shared_files.in_home(settings):
        print(f"The shared files in {shared_files.storage(settings).place} are in it.")
    for folder in made.left_out:
        print(f"Left out, because it is a symbolic link: {folder}")
    return 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    manifest = restore.restore(settings, options.file)
    print(f"Restored into {settings.home}: {_counted(manifest.counts)}, as of {manifest.created_at}.")
    if not manifest.has_secret_key and settings.secret_key is None:
        path = secret_key.key_file(settings.home)
        print(f"The backup has no secret key: put {path.name} back into {path.parent}, or set FABULA_SECRET_KEY.")
    print(
        "Unfinished runs and jobs continue when Fabula starts. Stop the original first: both would send the requests."
    )
    _check(options, settings)
    return 0


def _migrate(_options: argparse.Namespace, settings: Settings) -> int:
    file_permissions.keep_private(settings.home)
    before = ledger_copy.revision(settings.database_url)
    Store.open(settings).close()
    after = ledger_copy.revision(settings.database_url)
    print(f"The schema is up to date ({after})." if before == after else f"Migrated: {before or 'empty'} → {after}.")
    return 0


def _share_files(_options: argparse.Namespace, settings: Settings) -> int:
    if shared_files.in_home(settings):
        raise AdminError("The shared files are in FABULA_HOME.", "Set FABULA_FILES_URL first.")
    files = shared_files.storage(settings)
    shared_files.verify(files)
    moved = shared_files.move(settings.home, files)
    print(f"Moved to {files.place}: {', '.join(moved)}." if moved else "There was nothing to move.")
    if left := shared_files.unused(settings):
        print(f"{files.place} already has {', '.join(left)}. Delete the files in {settings.home} if they are outdated.")
    return int(bool(left))


def _health(options: argparse.Namespace, settings: Settings) -> int:
    health_check = HealthCheck(settings, for_worker=options.worker)
    health = health_check.check()
    health_check.close()
    for name, reason in health.reasons.items():
        print(f"{name}: {reason}")
    print(health.state)
    return int(health.state == "not ready" or (options.worker and "worker" in health.reasons))


def _test_alerts(_options: argparse.Namespace, settings: Settings) -> int:
    channels = configured_channels(settings)
    if not channels:
        raise AdminError(
            "No channel is set up.", "Set FABULA_ALERT_WEBHOOK_URL, or FABULA_ALERT_SMTP_URL and FABULA_ALERT_EMAIL_TO."
        )
    refused = 0
    for channel in channels:
        try:
            channel.send(f"test:{new_id()}", "Test message", "Alerts of Fabula arrive here.")
            print(f"{channel.name}: sent")
        except NotSent as exc:
            refused += 1
            print(f"{channel.name}: {exc}")
    return int(refused > 0)


def _check(_options: argparse.Namespace, settings: Settings) -> int:
    problems = 0
    for finding in check.run(settings):
        problems += not finding.ok
        print(f"{'ok     ' if finding.ok else 'PROBLEM'} {finding.what} {finding.next_step}".rstrip())
    print(f"{problems} {'problem' if problems == 1 else 'problems'} found." if problems else "No problems found.")
    return 1 if problems else 0


def _verify_audit(options: argparse.Namespace, settings: Settings) -> int:
    number, known_hash = options.known or ("0", "")
    if not number.isdigit():
        raise AdminError(f"{number} is not the number of an entry.", "Copy number and hash from an earlier check.")
    with people_commands.open_ledger(settings) as store:
        found = audit.check(store, (int(number), known_hash) if options.known else None)
    if found.first_broken is not None:
        print(f"PROBLEM Entry {found.first_broken} of the audit log was changed, inserted or removed.")
        return 1
    if not found.entries:
        print("The audit log has no entries.")
        return 0
    print(f"The audit log is complete and unchanged. Its last entry: {found.entries} {found.last_hash}")
    print("Store number and hash in another place, and pass them to the next run with --known.")
    return 0


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
