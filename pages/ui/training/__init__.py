"""The training page: `job_view` renders the list and the open jobs, `job_dialog` starts a new one.

Below a job: `job_actions`, `before_after_view`, `curves`, `evaluation_tab`, `job_details`; of several: `compare_view`.
The steps of the dialog: `job_check`, `job_estimate`, and `job_form` with what was typed. Reads: `cached_training`.
"""
