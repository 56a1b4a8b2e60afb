"""`video-ssl data build`: any table as ArrayRecord shards."""
