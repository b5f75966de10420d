"""The command line: one thin command per stage, tables, and errors turned into exit codes."""
