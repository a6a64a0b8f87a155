"""One verb per file: parse the command line, call one workflow, present what came of it."""
