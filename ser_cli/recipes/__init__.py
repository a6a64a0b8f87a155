"""The recipes that ship: TOML files, each opening with its command, its corpus and its figures."""
