"""The training page: `job_view` renders the list and the open jobs, `job_dialog` starts a new one.

Sections of a job: `job_actions`, `before_after_view`, `curves`, `evaluation_tab`, `job_details`; several jobs side by
side: `compare_view`. Steps of the dialog: `job_check`, `job_estimate`, and `job_form` with the input. Cached reads:
`cached_training`.
"""
