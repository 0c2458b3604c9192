"""Numbers in, plain Vega-Lite dicts out. The only place that knows Altair."""
