"""The story page: `composer` makes a request, `story_view` renders what arrives, and `library` shows earlier stories.

Below a story: `story_actions`, `story_remedies`, `speech`, `arena_vote`. Presenter mode: `presenter` with
`presenter_prompts`. What the visitor has open is in `components/story_session`.
"""
