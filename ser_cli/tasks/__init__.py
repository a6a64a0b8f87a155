"""Tasks that are learnt beside emotion: what their outputs mean, their labels, and what is said of tested clips."""
