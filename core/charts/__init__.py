"""Builds charts from numbers, as plain Vega-Lite dicts. The only package that imports Altair."""
