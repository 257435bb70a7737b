"""The command line: one module a verb. Nothing outside this package imports it."""
