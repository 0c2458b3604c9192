"""The people in a team: who may sign in (`sign_in.py`, `invitations.py`), and what admins can change (`people.py`).

Begin with `sign_in.sign_in`. In local mode nothing here is used.
"""
