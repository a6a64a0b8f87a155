"""The run directory, which all verbs share: what lies where, who holds it, what is done."""
