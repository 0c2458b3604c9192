"""The building blocks of the pages: one package per page, and the modules that they share.

`cache` (reads shared by all visitors), `state` (what one visitor has typed and opened), `i18n` (language, numbers, text
as Markdown), `background` (work that a page waits for), `sign_in` (who the visitor is), `components` (visible parts). A
page is a script in `pages/` that calls the modules of its package; start there.
"""
