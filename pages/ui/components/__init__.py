"""Components that several pages use. They depend on no page.

`cards` (errors, empty states, undo), `fields` (numbers and texts with a limit), `views` (small parts), `models`
(pickers and samples) with `prompt_warnings`, `prompt_formats` and `story_session` with `story_text`, `money`, `status`.
"""
