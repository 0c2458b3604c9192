"""The catalogues (`<language>/LC_MESSAGES/fabula.po`) and what collects their sentences from the code."""
