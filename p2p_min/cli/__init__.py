"""The command line: its options, and what they run."""
