"""`python -m core.migrate COMMAND`: move an account here without a browser.

The account is a provider of this installation: OPENAI_API_KEY, or one that was added under Settings → Providers
(`--provider`). OPENAI_ADMIN_KEY, if set, is used to read usage. `--folder` reads downloaded files instead.

Exit codes: 0 done; 1 it failed, and the message says why; 2 invalid arguments; 3 done, but some files are lost and
named; 4 stopped before the end, continue with the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from core import file_permissions, logs, shared_files
from core.actor import LOCAL
from core.db.store import Store
from core.errors import FabulaError, NotFound
from core.finetuning import candidates, job_cost, training_offers
from core.finetuning.training_offers import EngineView
from core.message import msg
from core.migrate import account_views, accounts, mover, retraining, switch, tunes, zip_file
from core.migrate.account_views import AccountView
from core.migrate.accounts import Goal
from core.migrate.sources import AccountForm
from core.migrate.switch import SwitchView
from core.migrate.tunes import Tune
from core.migrate.workspace import Workspace
from core.pricing import custom_prices
from core.providers import Provider, Registry, engine_aliases
from core.providers.registry import ENGINE
from core.settings import Settings

DONE, FAILED, LOST, STOPPED = 0, 1, 3, 4
_ADMIN_KEY = "OPENAI_ADMIN_KEY"
_LOOK_S = 0.5  # how often progress is printed
_TUNING_PROVIDERS = ("openai", "compatible", "azure", "together")  # ids from the environment that can have an account


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    logs.configure()
    settings = Settings.load_or_exit()
    logs.set_format(settings.log_format)
    file_permissions.keep_private(settings.home)
    store = Store.open(settings)
    command: Callable[[argparse.Namespace, _Context], int] = options.command
    try:
        return command(options, _Context(settings, store, Registry.from_settings(settings, os.environ, lambda: store)))
    except FabulaError as exc:
        if options.json:
            print(json.dumps({"error": str(exc.what), "next_step": str(exc.next_step), "type": type(exc).__name__}))
        else:
            print(exc.what, exc.next_step, file=sys.stderr)
        return FAILED
    finally:
        store.close()


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(prog="python -m core.migrate", description="Move a fine-tuning account to Fabula.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("inventory", _inventory, "list the account's tuned models, files, dates and usage"),
        ("archive", _archive, "list, then fetch every file and record; continues where it was interrupted"),
        ("status", _status, "show how far the archive has come, without any request"),
        ("zip", _zip, "write what is archived to one file"),
        ("switch", _switch, "let the engine answer requests for an old model with a new one"),
        ("back", _back, "undo the last switch of an old model"),
        ("candidates", _candidates, "compare what a tuned model could be trained on again, without starting anything"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("--provider", metavar="ID", help="a provider of this installation (default: OPENAI_API_KEY)")
        one.add_argument(
            "--folder",
            type=Path,
            metavar="PATH",
            help="a folder or ZIP file of downloaded files, instead of an account",
        )
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(command=command)
        if name == "candidates":
            one.add_argument("tune", metavar="TUNE", help="the name of a tuned model, or the id of its job")
        if name == "zip":
            one.add_argument("file", type=Path, metavar="FILE", help="the new file, for example openai.zip")
        if name in ("switch", "back"):
            one.add_argument("old", metavar="OLD", help="the id that programs ask for, for example ft:gpt-4o-mini:…")
        if name == "switch":
            one.add_argument("new", metavar="NEW", help="a model of the engine")
    return parser


class _Context:
    """What every command uses."""

    def __init__(self, settings: Settings, store: Store, registry: Registry) -> None:
        self.settings, self.store, self.registry = settings, store, registry
        self.stopping = threading.Event()

    def provider(self, wanted: str | None) -> Provider:
        """The provider whose account is moved.

        Raises:
            NotFound: there is none, or not this one.
        """
        if wanted is not None:
            return self.registry.provider(wanted)
        for one in _TUNING_PROVIDERS:
            if one in self.registry.environment_ids():
                return self.registry.provider(one)
        for one in self.registry.ids():
            if one not in self.registry.environment_ids() and self.registry.provider(one).kind in _TUNING_PROVIDERS:
                return self.registry.provider(one)
        raise NotFound(
            msg("No account is set up."),
            msg(
                "Set `OPENAI_API_KEY`, `AZURE_OPENAI_API_KEY` or `TOGETHER_API_KEY`, or add the account under Settings "
                "→ Providers and name it with --provider."
            ),
        )

    def known(self, options: argparse.Namespace) -> AccountView:
        """The account or folder that was listed before; if none is named, the newest.

        Raises:
            NotFound: none was listed yet.
        """
        found = account_views.list_accounts(self.store)
        if options.folder is not None:
            found = [one for one in found if one.is_folder and one.base_url == str(options.folder.resolve())]
        elif options.provider is not None:
            found = [one for one in found if one.provider == options.provider]
        if not found:
            raise NotFound(msg("No account is listed yet."), msg("Run `python -m core.migrate inventory` first."))
        return found[0]


def _inventory(options: argparse.Namespace, context: _Context) -> int:
    shown, code = _work(options, context, "inventory")
    if code == DONE:
        _print(options, shown, tunes.list_tunes(context.store, shown.id), [])
    return code


def _archive(options: argparse.Namespace, context: _Context) -> int:
    shown, code = _work(options, context, "archive")
    if code != DONE:
        return code
    lost = tunes.lost_files(context.store, shown.id)
    _print(options, shown, [], [f"{one.filename}: {one.reason or one.state}" for one in lost])
    return LOST if lost else DONE


def _status(options: argparse.Namespace, context: _Context) -> int:
    shown = context.known(options)
    _print(options, shown, tunes.list_tunes(context.store, shown.id), [])
    return DONE


def _zip(options: argparse.Namespace, context: _Context) -> int:
    shown = context.known(options)
    size = zip_file.write(context.store, LOCAL, context.settings, shown.id, options.file)
    print(json.dumps({"file": str(options.file), "bytes": size}) if options.json else f"{options.file}: {size:,} bytes")
    return DONE


def _switch(options: argparse.Namespace, context: _Context) -> int:
    engine = context.registry.get(ENGINE)
    switch.switch(context.store, LOCAL, engine, options.old, options.new)
    return _print_switch(options, switch.view(context.store, engine_aliases.listed(engine), options.old))


def _back(options: argparse.Namespace, context: _Context) -> int:
    engine = context.registry.get(ENGINE)
    switch.back(context.store, LOCAL, engine, options.old)
    return _print_switch(options, switch.view(context.store, engine_aliases.listed(engine), options.old))


def _print_switch(options: argparse.Namespace, now: SwitchView) -> int:
    if options.json:
        print(json.dumps(asdict(now), default=str, ensure_ascii=False))
    else:
        print(f"{now.alias} -> {now.model}" if now.model else f"{now.alias}: no alias")
    return DONE


def _candidates(options: argparse.Namespace, context: _Context) -> int:
    store, registry, shown = context.store, context.registry, context.known(options)
    data = retraining.data_of(store, shown.id, options.tune)
    book = custom_prices.book(store, shared_files.storage(context.settings))
    engine, ask = _engine(context)
    offers = training_offers.list_offers(registry, book, engine, datetime.now(UTC).date())
    found = candidates.compare(store, book, data, offers, ask)
    if options.json:
        content = {"dataset_id": data.dataset_id, "version_id": data.version_id}
        listed = [candidates.as_json(one) for one in found]
        print(json.dumps({**content, "candidates": listed}, default=str, ensure_ascii=False))
        return DONE
    for one in found:
        price = "free on this machine" if one.offer.engine else _amount(one.price_usd)
        last_day = f"until {one.callable_until}" if one.callable_until else "no last day"
        print(f"{one.offer.provider_name}\t{one.offer.model}\t{one.tokens:,} tokens\t{price}\t{last_day}")
        for line in (one.blocked, one.caution, one.offer.note, *one.translation.left_out):
            if line:
                print(f"\t{line}")
    return DONE


def _amount(usd: Decimal | None) -> str:
    if usd is None:
        return "price unknown"
    return f"${usd:.{2 if usd >= 1 else 4}f}" if usd >= Decimal("0.0001") else "under $0.0001"


def _engine(context: _Context) -> tuple[EngineView | FabulaError, Callable[[str, str], int] | None]:
    """What the engine reports and its tokenizer, or why it does not answer."""
    measure = None if context.settings.engine_url is not None else job_cost.measure_rough_speed
    try:
        client = context.registry.get(ENGINE)
        return training_offers.read_engine(context.store, client, measure=measure), client.count_tokens
    except FabulaError as exc:
        return exc, None


def _work(options: argparse.Namespace, context: _Context, goal: Goal) -> tuple[AccountView, int]:
    """Work on the account in this process until it is done, fails, or a signal stops it."""
    connect, archive_id = _connecting(options, context)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: context.stopping.set())
    store = context.store
    with Workspace(context.settings, archive_id).locked():
        connect()
        accounts.start(store, LOCAL, archive_id, goal)
        ended = threading.Event()
        threading.Thread(target=_report, args=(options, context, archive_id, ended), daemon=True).start()
        try:
            while (wait_s := mover.move(store, context.registry, context.settings, archive_id, context.stopping)) and (
                not context.stopping.wait(wait_s)
            ):
                pass
        except FabulaError as exc:
            accounts.give_up(store, archive_id, exc)
            raise
        finally:
            ended.set()
        if context.stopping.is_set():
            accounts.end(store, archive_id, "stopped")
    shown = account_views.view(store, archive_id)
    return shown, DONE if shown.state in ("listed", "archived") else STOPPED


def _connecting(options: argparse.Namespace, context: _Context) -> tuple[Callable[[], str], str]:
    """What connects the chosen account or folder, and its id."""
    store = context.store
    if options.folder is not None:
        folder: Path = options.folder
        return (lambda: accounts.connect_folder(store, LOCAL, folder, folder.name)), (
            accounts.find_folder(store, folder) or accounts.connect_folder(store, LOCAL, folder, folder.name)
        )
    provider = context.provider(options.provider)
    form = AccountForm(provider, stored=True, admin_key=os.environ.get(_ADMIN_KEY, ""))
    return (lambda: accounts.connect(store, LOCAL, form)), (
        accounts.find(store, provider) or accounts.connect(store, LOCAL, form)
    )


def _report(options: argparse.Namespace, context: _Context, archive_id: str, ended: threading.Event) -> None:
    """Print progress to stderr while it changes."""
    last = ""
    while not ended.wait(_LOOK_S):
        shown = account_views.view(context.store, archive_id)
        line = f"{shown.state}: {shown.tunes} tuned models, {shown.files_done} of {shown.files} files"
        line += f", {shown.note}" if shown.note else ""
        if line != last and not options.json:
            print(line if shown.eta_s is None else f"{line}, about {shown.eta_s / 60:.0f} min left", file=sys.stderr)
        last = line


def _print(options: argparse.Namespace, shown: AccountView, listed: Sequence[Tune], lost: Sequence[str]) -> None:
    if options.json:
        content: Mapping[str, Any] = {"account": asdict(shown), "tunes": [asdict(one) for one in listed], "lost": lost}
        print(json.dumps(content, default=str, ensure_ascii=False))
        return
    today = datetime.now(UTC).date()
    for one in listed:
        left = one.days_left(today)
        day = "no date known" if left is None else f"dark on {one.dark_on} ({left} days left)"
        print(f"{one.model or one.id}\t{one.base_model}\t{one.method}\t{one.state}\t{day}")
        if one.reason:
            print(f"\t{one.reason}")
    print(f"{shown.name}: {shown.state}. {shown.tunes} tuned models, {shown.datasets} data sets.")
    print(f"{shown.stored} of {shown.files} files stored ({shown.stored_bytes:,} bytes).")
    switched = [one for one in listed if one.state == "switched"]
    if switched:
        print(f"{len(switched)} of {sum(one.model is not None for one in listed)} tuned models switched.")
    for line in lost:
        print(f"Lost: {line}")
    if shown.usage_note:
        print(shown.usage_note)


if __name__ == "__main__":
    sys.exit(main())
