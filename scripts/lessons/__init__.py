"""What the lessons need beside p2p_min, importable wherever it is installed: figures, and the checks of exercises."""
