"""Lists and tables that people and other programs write."""
