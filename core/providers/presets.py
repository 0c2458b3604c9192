"""Known providers, from `data/providers.json`: their addresses and how they differ, each with a source and a date.

To add a provider, add an entry to that file.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path

from core.providers.capabilities import BY_KIND, Capabilities, Kind

CUSTOM = "compatible"
"""Id of the preset for servers that are not in the list."""
OWN_SERVER = "own-server"
"""Id of the preset for a server on the user's own hardware that is not in the list: it has no price per token."""
_FILE = Path(__file__).parents[2] / "data" / "providers.json"


@dataclass(frozen=True, slots=True)
class ProviderPreset:
    """A known provider.

    Attributes:
        id: id of the first provider added from this preset, and its name in the price lists.
        base_url: its address; "" if the user must enter it. `<…>` marks a part to replace.
        capabilities: its known capabilities, before any test.
        self_hosted: whether it runs on the user's own hardware and has no price per token.
        local_port: the port on which it usually listens on this machine; None if Fabula does not look for it.
        alternative_url: the address for accounts outside mainland China; "" if it is the same.
        source, checked: where the entry comes from, and the date on which the source was read.
    """

    id: str
    name: str
    kind: Kind
    base_url: str
    capabilities: Capabilities
    self_hosted: bool
    local_port: int | None
    alternative_url: str
    source: str
    checked: date


@cache
def all_presets() -> tuple[ProviderPreset, ...]:
    """All presets, in file order."""
    entries = json.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(_preset(entry) for entry in entries)


def in_order(running: Collection[str] = ()) -> list[ProviderPreset]:
    """All presets in the order of the picker: OpenAI, the `running` ones, any compatible server, then the others by
    name.
    """
    first = ("openai", *running, OWN_SERVER, CUSTOM)
    rest = sorted((one for one in all_presets() if one.id not in first), key=lambda one: one.name.casefold())
    return [*map(find, dict.fromkeys(first)), *rest]


def find(preset_id: str) -> ProviderPreset:
    """Return a preset; if there is none with this id (any more), return the one for compatible servers."""
    by_id = {preset.id: preset for preset in all_presets()}
    return by_id.get(preset_id, by_id[CUSTOM])


def _preset(entry: dict[str, object]) -> ProviderPreset:
    fields = {"self_hosted": False, "local_port": None, "alternative_url": "", **entry}
    kind: Kind = fields["kind"]  # type: ignore[assignment]
    differences = dict(fields.pop("capabilities", {}))  # type: ignore[call-overload]
    if "rejects" in differences:
        differences["rejects"] = frozenset(differences["rejects"])
    fields["capabilities"] = replace(BY_KIND[kind], **differences)
    fields["checked"] = date.fromisoformat(str(fields["checked"]))
    return ProviderPreset(**fields)  # type: ignore[arg-type]
