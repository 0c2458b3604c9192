"""The data set page, tab by tab; `dataset_picker` chooses what they show.

Design: `design_tab` with `recipe_form`, `column_form`. Bring your own: `importing` with
`upload_columns`. Run: `run_tab` with `run_controls`, `remedies`, `heat_map`, `row_table`, `row_cards`. Quality:
`quality_tab` with `quality_report`, `quality_panels`, `quality_rows`. Use: `use_tab` with `training_file`.
"""
