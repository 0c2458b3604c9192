"""What the pages are drawn from: one package per page, and what they share.

`cache` (reads shared by all visitors), `state` (what one visitor has typed and opened), `i18n` (language, numbers, text
as Markdown), `background` (work that a page waits for), `sign_in` (who the visitor is), `components` (drawn parts).
A page is a script in `pages/`, which calls the modules of its package; begin there.
"""
