"""The commands of `imago`, grouped by what they are about; `app.cli` puts them together."""
