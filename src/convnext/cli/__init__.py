"""The command line: one file per verb, torch imported only by the verbs that need it."""
