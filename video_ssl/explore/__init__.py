"""Look at what was learned: search, align, explore, report."""
