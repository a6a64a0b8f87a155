"""Templates of the pages that `ser` writes; Jinja2 fills them in and escapes every text."""
