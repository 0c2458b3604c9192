"""Fine-tuning: turns a data set into a training file, submits it as a job, and reads back the curve and the model.
Start with `core.finetuning.jobs`.
"""
