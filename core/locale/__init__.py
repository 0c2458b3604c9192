"""The catalogues (`<language>/LC_MESSAGES/fabula.po`) and the collector of translatable sentences."""
