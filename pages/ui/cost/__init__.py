"""The cost page, part by part. Cached reads: `cached_cost`.

Prices: `price_list` with `price_choice`, `custom_prices_form`, `quality_view`. My workload: `workload` with
`workload_options`. Spent: `spending` with `budgets_form`.
"""
