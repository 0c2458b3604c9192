"""The catalogues (`<language>/LC_MESSAGES/fabula.po`); `python -m core.locale` updates them from the code."""
