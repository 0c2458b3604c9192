"""Training: a data set becomes a file, the file a job, the job a curve and a model. Start with
`core.finetuning.jobs`."""
