"""The settings page, card by card: `bases` (the engine's base models), `providers_card`, `about` (data, versions).

A provider is added in `provider_form`, tested in `provider_test`, found on this machine by `local_servers_card`.
"""
