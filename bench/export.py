"""Exports the packaged storyteller in every form and measures how far each is from the trainer.

    python -m bench.export [--home DIR] [--forms gguf-f16 peft …]

The figures are the exports' own proofs: KL divergence of the next token's probabilities from the trainer's, in nats,
after 50 prompts. Needs requirements-engine.txt; with `peft` installed, the PEFT folder is compared in PEFT.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import _smoke
from core import packaged_models

if TYPE_CHECKING:
    from core.engine.exports.forms import Form
    from core.engine.exports.record import ExportRecord

_WRITER = "storyteller"
_HUB_NAME = "google/gemma-3-270m"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--home", type=Path, help="engine home to keep; not given: a temporary one")
    arguments.add_argument("--forms", nargs="*", help="not given: all")
    options = _smoke.parse(arguments, modules=("torch", "transformers", "core.engine.exports.make"), optional=("peft",))
    with tempfile.TemporaryDirectory() as temporary:
        _run(options.home or Path(temporary), options.forms)


def _run(home: Path, chosen: list[str] | None) -> None:
    from core.engine.exports import forms

    figures: dict[str, float] = {}
    print("| form | MB | program | mean KL | largest KL | same most likely token | s |\n|---|---|---|---|---|---|---|")
    for form in forms.FORMS:
        if chosen and form not in chosen:
            continue
        start = time.monotonic()
        done = _export(home, form)
        took = time.monotonic() - start
        if done.state != "ready":
            raise SystemExit(f"{form}: {done.error}")
        [one] = done.proof
        size = done.size / 1e6
        print(
            f"| {form} | {size:,.1f} | {one.program} | {one.mean_kl:.2g} | {one.max_kl:.2g} | {one.same_top:.0%} "
            f"| {took:.0f} |",
            flush=True,
        )
        figures[f"max_kl_{form.replace('-', '_')}"] = one.max_kl
    print(json.dumps(figures))


def _export(home: Path, form: Form) -> ExportRecord:
    """One export, written by this process."""
    from core.engine.exports import make, record
    from core.engine.formats import weights

    base = weights.ensure_gguf(packaged_models.BASE, home)
    folder = home / "exports" / form
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    adapter = Path(__file__).parents[1] / "data" / "storyteller" / f"{_WRITER}.gguf"
    shutil.copyfile(adapter, folder / record.ADAPTER)
    spec = record.ExportSpec(
        _WRITER, form, packaged_models.BASE, str(base), "", str(weights.cache_dir(base, home)), _HUB_NAME, "gemma", "",
        "chat",
    )  # fmt: skip
    record.write(folder, record.ExportRecord("export-bench", spec, int(time.time()), 0))
    make.Export(folder, os.cpu_count() or 1).run()
    found = record.read(folder)
    assert found is not None
    return found


if __name__ == "__main__":
    main()
