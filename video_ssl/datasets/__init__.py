"""WHICH videos: tables of records, and where they come from (numpy and pyarrow only)."""
