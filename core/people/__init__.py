"""The people in a team: who may sign in (`sign_in.py`, `invitations.py`), what they are called and what admins can
change (`people.py`), and what they did (`audit.py`).

Begin with `sign_in.sign_in`. In local mode there are no people.
"""
