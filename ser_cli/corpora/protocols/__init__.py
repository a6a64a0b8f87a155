"""Published and shipped fold definitions, frozen as data: one JSON file per corpus, the standard one first."""
