"""Quality of a data set: measured before money is spent on training.

rows = [QualityRow(1, {"dynasty": "唐"}, "写一个唐朝的故事", "一位唐朝的英雄…")]
measure.report(rows, ["dynasty"]).verdict   # pure
quality_store.dataset_report(store, dataset_id).findings   # rows in the database; cached until they change
"""
