"""How many utterances each complete corpus holds, and who counted: one JSON file per corpus."""
