"""The story page: `composer` makes a request, `story_view` draws what arrives, `library` what was written earlier.

Below a story: `story_actions`, `story_remedies`, `speech`, `arena_vote`. Presenter mode: `presenter` with
`presenter_prompts`. What the visitor has open is in `components/story_session`.
"""
